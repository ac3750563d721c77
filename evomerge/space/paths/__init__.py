"""Spaces of paths through the blocks of the parents (data-flow space in arXiv 2403.13187)."""
