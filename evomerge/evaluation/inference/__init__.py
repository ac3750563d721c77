"""Running a model on lm-eval's requests: log-likelihoods and greedy generation, in few passes."""
