"""How a model answers: log-likelihoods and greedy generation at the cost of the forward passes."""
