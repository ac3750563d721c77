"""Executors: where candidates are built and scored."""
