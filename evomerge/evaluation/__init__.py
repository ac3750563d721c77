"""The evaluation harness: lm-eval tasks at the cost of the forward passes."""
