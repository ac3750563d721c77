"""Converting mergekit's YAML files to recipes and back, and mergekit-evolve's to search files."""

from evomerge.mergekit.evolve import convert, convert_file
from evomerge.mergekit.from_recipe import express, to_mergekit
from evomerge.mergekit.into_recipe import from_mergekit, mergekit_parents
from evomerge.mergekit.reference import mergekit_reference

__all__ = [
    "convert",
    "convert_file",
    "express",
    "from_mergekit",
    "mergekit_parents",
    "mergekit_reference",
    "to_mergekit",
]
