"""Merge methods and search strategies that were published, as a package by entry points."""
