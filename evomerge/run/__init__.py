"""The run folder: its journal, its lock, its files."""
