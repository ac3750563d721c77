"""Converting mergekit's YAML files to recipes and back."""

from evomerge.mergekit.from_recipe import express
from evomerge.mergekit.into_recipe import from_mergekit, mergekit_parents

__all__ = ["express", "from_mergekit", "mergekit_parents"]
