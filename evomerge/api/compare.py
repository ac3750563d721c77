"""Comparing the weights of parents, before they are merged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import InputError
from evomerge.parsing.values import shown

if TYPE_CHECKING:
    from evomerge.report.compare import ParentComparison


def compare(
    parents: Sequence[str | PathLike[str]],
    base: str | PathLike[str] | None = None,
) -> ParentComparison:
    """Compare the weights, tokenizers and chat templates of parents.

    All weights are read once, and none are kept; no model is loaded. `to_dict()` of the comparison
    is what `evomerge compare --json` prints.

    Args:
        parents: as in a search file: a folder, a Hub id, `zoo:NAME`, each with
            `+ADAPTER` or not. With a base, also the folder of an adapter (LoRA) of this base.
        base: what the parents were trained from. Without it, it is not known what they changed.

    Raises:
        InputError: a model is missing or damaged, or their tensors do not fit.
    """
    from evomerge.merging.architecture.naming import fitting
    from evomerge.models.references import open_parent
    from evomerge.report.compare import compare_parents
    from evomerge.report.words import short_names
    from evomerge.setup.parents import absolute_parent

    if isinstance(parents, str) or not isinstance(parents, Iterable):
        raise InputError(
            f"parents is {shown(parents)}; give a list of models, as [{shown(str(parents))}]."
        )
    origin = None if base is None else absolute_parent(str(base), Path.cwd())
    paths = [absolute_parent(_on_base(str(parent), origin), Path.cwd()) for parent in parents]
    if twice := next((item for item in paths if paths.count(item) > 1), None):
        raise InputError(f"The parent {twice!r} is given twice; give each parent once.")
    names = [*([] if origin is None else [origin]), *paths]
    if not paths or len(set(names)) < 2:
        raise InputError(
            f"There is one model only ({', '.join(dict.fromkeys(names))}), and nothing to compare "
            "it with; give another parent, or --base."
        )
    opened = {name: open_parent(name, Path.cwd()) for name in dict.fromkeys(names)}
    sizes = {item.vocabulary for item in opened.values()}
    models = fitting(opened, names[0], vocabularies=len(sizes) == 1)
    first = None if origin is None else models[origin]
    return compare_parents(first, [models[name] for name in paths], short_names(names))


def _on_base(parent: str, base: str | None) -> str:
    """Return a parent's reference; of an adapter's folder, that of the base with it."""
    folder = Path(parent)
    is_adapter = (folder / "adapter_config.json").is_file() and not (
        folder / "config.json"
    ).is_file()
    return f"{base}+{parent}" if is_adapter and base is not None else parent
