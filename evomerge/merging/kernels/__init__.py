"""Compiled loops over the weights of one tensor."""
