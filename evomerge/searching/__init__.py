"""The search loop: ask the strategy, run jobs, journal the outcomes, tell the strategy."""
