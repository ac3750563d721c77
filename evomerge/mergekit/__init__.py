"""Converting mergekit's YAML files to recipes and back."""

from evomerge.mergekit.documents import documents, separated
from evomerge.mergekit.from_recipe import express, to_mergekit
from evomerge.mergekit.import_warnings import ImportWarnings
from evomerge.mergekit.into_recipe import from_mergekit, mergekit_parents
from evomerge.mergekit.reference import mergekit_reference

__all__ = [
    "ImportWarnings",
    "documents",
    "express",
    "from_mergekit",
    "mergekit_parents",
    "mergekit_reference",
    "separated",
    "to_mergekit",
]
