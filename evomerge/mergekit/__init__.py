"""Converting mergekit's YAML files to recipes and back."""

from evomerge.mergekit.documents import documents, separated
from evomerge.mergekit.file import ImportWarnings
from evomerge.mergekit.from_recipe import express, to_mergekit
from evomerge.mergekit.into_recipe import from_mergekit, mergekit_parents

__all__ = [
    "ImportWarnings",
    "documents",
    "express",
    "from_mergekit",
    "mergekit_parents",
    "separated",
    "to_mergekit",
]
