"""Writing merged models: checkpoints, their model cards, and uploads to the Hub."""
