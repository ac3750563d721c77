"""Recipes from and to mergekit's YAML, search files from mergekit-evolve's."""

from evomerge.interop.into_recipe import from_mergekit, mergekit_parents

__all__ = ["from_mergekit", "mergekit_parents"]
