"""Spaces of paths through the layers of the parents (data-flow space)."""
