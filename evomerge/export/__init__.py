"""What leaves a run: checkpoints, model cards, uploads."""
