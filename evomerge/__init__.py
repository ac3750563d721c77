"""Evolutionary merge search for language models."""

from importlib.metadata import version

__version__ = version("evomerge")
