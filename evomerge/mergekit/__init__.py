"""Recipes from and to mergekit's YAML, search files from mergekit-evolve's."""

from evomerge.mergekit.evolve import convert, convert_file
from evomerge.mergekit.from_recipe import express, mergekit_reference, to_mergekit
from evomerge.mergekit.into_recipe import from_mergekit, mergekit_parents

__all__ = [
    "convert",
    "convert_file",
    "express",
    "from_mergekit",
    "mergekit_parents",
    "mergekit_reference",
    "to_mergekit",
]
