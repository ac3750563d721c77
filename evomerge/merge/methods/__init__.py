"""Merge methods, one file a family."""
