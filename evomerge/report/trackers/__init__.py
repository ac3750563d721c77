"""Experiment trackers that a running search is logged to (`evomerge search --track NAME`)."""
