"""The run folder: journal, lock, files."""
