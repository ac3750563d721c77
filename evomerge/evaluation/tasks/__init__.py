"""What models are scored on: lm-eval tasks, Python functions, and the documents of each split."""
