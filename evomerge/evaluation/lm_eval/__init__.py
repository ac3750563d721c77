"""lm-eval's tasks as an objective: loading, requests, metrics, and the code that models write."""
