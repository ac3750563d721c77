"""Gradient descent on merge knobs, as a kind of search strategy."""
