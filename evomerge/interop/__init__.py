"""Recipes from and to mergekit's YAML, search files from mergekit-evolve's."""

from evomerge.interop.evolve import convert, convert_file
from evomerge.interop.from_recipe import express, mergekit_reference, to_mergekit
from evomerge.interop.into_recipe import from_mergekit, mergekit_parents

__all__ = [
    "convert",
    "convert_file",
    "express",
    "from_mergekit",
    "mergekit_parents",
    "mergekit_reference",
    "to_mergekit",
]
