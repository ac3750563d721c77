"""Optimizers behind one ask/tell protocol."""
