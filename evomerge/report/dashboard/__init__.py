"""Run folders in optuna-dashboard: each run is a study of Optuna, each candidate is a trial."""
