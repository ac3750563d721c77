"""Processes with limits, in which code that a model has written runs."""
