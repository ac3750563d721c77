"""All merge methods by name, one file for each family. Importing this does not import torch."""

from __future__ import annotations

from evomerge.errors import RecipeError
from evomerge.merging.methods.method import Method
from evomerge.registry import Registry

_HERE = "evomerge.merging.methods"

METHODS: Registry[Method] = Registry(
    kind="merge method",
    group="evomerge.methods",
    builtin={
        "linear": f"{_HERE}.linear:LINEAR",
        "slerp": f"{_HERE}.spherical:SLERP",
        "whole_slerp": f"{_HERE}.whole_slerp:WHOLE_SLERP",
        "nuslerp": f"{_HERE}.spherical:NUSLERP",
        "multislerp": f"{_HERE}.spherical:MULTISLERP",
        "karcher": f"{_HERE}.spherical:KARCHER",
        "task_arithmetic": f"{_HERE}.task_vectors:TASK_ARITHMETIC",
        "ties": f"{_HERE}.task_vectors:TIES",
        "dare_linear": f"{_HERE}.task_vectors:DARE_LINEAR",
        "dare_ties": f"{_HERE}.task_vectors:DARE_TIES",
        "della": f"{_HERE}.task_vectors:DELLA",
        "della_linear": f"{_HERE}.task_vectors:DELLA_LINEAR",
        "breadcrumbs": f"{_HERE}.task_vectors:BREADCRUMBS",
        "breadcrumbs_ties": f"{_HERE}.task_vectors:BREADCRUMBS_TIES",
        "sce": f"{_HERE}.sce:SCE",
        "tsv": f"{_HERE}.matrices:TSV",
        "model_stock": f"{_HERE}.stock:MODEL_STOCK",
        "nearswap": f"{_HERE}.nearby:NEARSWAP",
        "arcee_fusion": f"{_HERE}.nearby:ARCEE_FUSION",
        "ram": f"{_HERE}.ram:RAM",
        "ramplus": f"{_HERE}.ram:RAMPLUS",
        "passthrough": f"{_HERE}.linear:PASSTHROUGH",
    },
    aliases={"ramplus_tl": "ramplus"},
    error=RecipeError,
    elsewhere=dict.fromkeys(
        ("consensus", "iso_c", "wudi_ridge", "svd_mutation"), "evomerge-research"
    ),
)


def method_names() -> tuple[str, ...]:
    """Return the names of all merge methods, including those that other packages register."""
    return METHODS.names()


def get_method(name: str) -> Method:
    """Return the merge method called `name`.

    Raises:
        RecipeError: there is no such method; the message lists all names and suggests a similar
            one.
    """
    return METHODS.get(name)
