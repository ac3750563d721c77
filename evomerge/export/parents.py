"""What a published card says of the parents of a merge: names, ids on the Hub, licences.

Names are Hub ids, or the last part of the path of a local folder: a folder above a model may have
the name of a user. Licences are what the parents' own cards say (`README.md` in their folders).
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import yaml

from evomerge.errors import printable
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import is_from_hub
from evomerge.models.references import hub_id, split_adapter

Licence: TypeAlias = Mapping[str, str]
"""The keys of a card that say its licence: `license`, and of `other` its name and link."""

_FRONT_MATTER = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:[\r\n]|\Z)", re.DOTALL)
"""YAML between two lines `---` at the beginning of a card."""


class Parent(NamedTuple):
    """A parent as a card names it, with its id if it came from the Hub.

    `licences` are those of the model and of its adapter, each None if its card does not say it.
    """

    name: str
    hub_id: str | None
    licences: tuple[Licence | None, ...]


def describe_parents(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Parent]:
    """Return what a card says of the parents, all with different names: reference -> parent."""
    found: dict[str, Parent] = {}
    for reference, checkpoint in checkpoints.items():
        model, plus, adapter = split_adapter(reference, Path.cwd())
        if not is_from_hub(checkpoint.folder) and not model.startswith("zoo:"):
            model = Path(model).absolute().name or "model"
        if checkpoint.adapter is not None and not is_from_hub(checkpoint.adapter):
            adapter = Path(adapter).absolute().name or "adapter"
        plain = name = f"{model}{plus}{adapter}"
        number = 1
        while any(name == other.name for other in found.values()):
            number += 1
            name = f"{plain} ({number})"
        hub = hub_id(reference) if is_from_hub(checkpoint.folder) else None
        folders = [folder for folder in (checkpoint.folder, checkpoint.adapter) if folder]
        found[reference] = Parent(name, hub, tuple(map(_licence, folders)))
    return found


def common_licence(parents: Iterable[Parent]) -> Licence | None:
    """Return the licence that the cards of all parents name; None if they do not agree."""
    first, *others = (licence for parent in parents for licence in parent.licences)
    return first if all(item == first for item in others) else None


def _licence(folder: Path) -> Licence | None:
    """Return what the card in a folder says, if it can be read and names one licence."""
    try:
        block = _FRONT_MATTER.match((folder / "README.md").read_text(encoding="utf-8"))
        # No card needs aliases, and a few of them can stand for gigabytes.
        if block is None or any(isinstance(item, yaml.AliasToken) for item in yaml.scan(block[1])):
            return None
        card = yaml.safe_load(block[1])
        key, name, link = (card.get(part) for part in ("license", "license_name", "license_link"))
    except Exception:  # what others have written may be damaged in any way; then it says nothing
        return None
    if isinstance(key, list) and len(key) == 1:
        key = key[0]
    if not isinstance(key, str) or (key.lower() in ("", "unknown", "other") and not name):
        return None
    texts = {"license": key.lower(), "license_name": name, "license_link": link}
    return {part: printable(item) for part, item in texts.items() if isinstance(item, str) and item}
