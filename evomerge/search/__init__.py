"""The search loop: strategy asks, executor runs, journal remembers, strategy is told."""
