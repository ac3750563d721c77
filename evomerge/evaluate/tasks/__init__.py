"""What is asked: lm-eval tasks, own functions, and the documents of each split."""
