"""All merge methods by name, one file for each family. None of them imports torch or numba."""

from evomerge.errors import RecipeError
from evomerge.merging.methods.method import Method
from evomerge.registry import Registry

_FAMILIES = (
    ("averages", "linear passthrough slerp nuslerp multislerp karcher model_stock"),
    (
        "task_vectors",
        "task_arithmetic ties dare_linear dare_ties della della_linear breadcrumbs "
        "breadcrumbs_ties",
    ),
    ("elementwise", "nearswap arcee_fusion ram ramplus sce"),
    ("task_vectors", "tsv"),
)
"""Modules of this package, each with methods in it, in the order in which they are listed."""

METHODS: Registry[Method] = Registry(
    kind="merge method",
    group="evomerge.methods",
    builtin={
        name: f"{__name__}.{family}:{name}" for family, names in _FAMILIES for name in names.split()
    },
    aliases={"ramplus_tl": "ramplus"},
    error=RecipeError,
)


def method_names() -> tuple[str, ...]:
    """Return the names of all merge methods, also of those that other packages register."""
    return METHODS.names()


def get_method(name: str) -> Method:
    """Return the merge method called `name`; a `RecipeError` for an unknown one lists all names."""
    return METHODS.get(name)
