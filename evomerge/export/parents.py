"""What a published card says of the parents of a merge: names, licences, languages, fingerprints.

Names are Hub ids, or the last part of the path of a local folder. Licences and languages are what
the parents' own cards say (`README.md` in their folders); what no card says is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import printable
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import is_from_hub
from evomerge.models.references import hub_id, split_adapter

_UNKNOWN_LICENCES = ("", "unknown", "other")
"""Values of the key `license` that do not say which licence it is."""

_FRONT_MATTER = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:[\r\n]|\Z)", re.DOTALL)
"""YAML between two lines `---` at the beginning of a card."""


@dataclass(frozen=True)
class Licence:
    """A licence as a model card names it (`license` or `other`, `license_name`, `license_link`)."""

    key: str
    name: str | None = None
    link: str | None = None

    @property
    def label(self) -> str:
        """The name of the licence if it has one of its own, else its identifier."""
        return self.name or self.key


@dataclass(frozen=True)
class Parent:
    """A parent as a card names it, without a path of this machine.

    Attributes:
        hub_id: its id on the Hub, or None if it did not come from there.
        fingerprint: see `Checkpoint.fingerprint`.
        licences: what the cards of the model and of its adapter say; None if a card is missing or
            does not say it.
        languages: the languages that its card names, sorted.
    """

    name: str
    hub_id: str | None
    fingerprint: str
    licences: tuple[Licence | None, ...]
    languages: tuple[str, ...]


def describe_parents(
    references: Iterable[str], checkpoints: Mapping[str, Checkpoint]
) -> dict[str, Parent]:
    """Return what a card says of the parents: reference -> parent."""
    names = published_names(list(dict.fromkeys(references)), checkpoints)
    return {
        reference: _described(reference, name, checkpoints[reference])
        for reference, name in names.items()
    }


def _described(reference: str, name: str, checkpoint: Checkpoint) -> Parent:
    folders = [checkpoint.folder, *([checkpoint.adapter] if checkpoint.adapter else [])]
    cards = [_metadata(folder / "README.md") for folder in folders]
    hub = hub_id(reference) if is_from_hub(checkpoint.folder) else None
    licences = tuple(map(_licence, cards))
    return Parent(name, hub, checkpoint.fingerprint, licences, _languages(cards[0]))


def published_names(
    references: Sequence[str], checkpoints: Mapping[str, Checkpoint]
) -> dict[str, str]:
    """Return a name for each parent that can be published: reference -> name.

    A folder above a model may have the name of a user, so of a path only the last part is used.
    """
    names: dict[str, str] = {}
    for reference in references:
        plain = name = _published(reference, checkpoints[reference])
        number = 1
        while name in names.values():
            number += 1
            name = f"{plain} ({number})"
        names[reference] = name
    return names


def common_licence(parents: Iterable[Parent]) -> Licence | None:
    """Return the licence that the cards of all parents name; None if they do not agree."""
    found = {licence for parent in parents for licence in parent.licences}
    return found.pop() if len(found) == 1 else None


def common_languages(parents: Iterable[Parent]) -> tuple[str, ...]:
    """Return the languages of the parents' cards; none if they do not agree."""
    found = {parent.languages for parent in parents}
    return found.pop() if len(found) == 1 else ()


def _published(reference: str, checkpoint: Checkpoint) -> str:
    model, plus, adapter = split_adapter(reference, Path.cwd())
    if not is_from_hub(checkpoint.folder) and not model.startswith("zoo:"):
        model = _last_part(model)
    if checkpoint.adapter is not None and not is_from_hub(checkpoint.adapter):
        adapter = _last_part(adapter)
    return f"{model}{plus}{adapter}"


def _last_part(path: str) -> str:
    return Path(path).absolute().name or "model"


def _metadata(card: Path) -> Mapping[str, Any]:
    """Return the metadata of a model card; empty if there is none that can be read."""
    try:
        block = _FRONT_MATTER.match(card.read_text(encoding="utf-8"))
        # No card needs aliases, and a few of them can stand for gigabytes.
        if block is None or any(isinstance(item, yaml.AliasToken) for item in yaml.scan(block[1])):
            return {}
        found = yaml.safe_load(block[1])
    except Exception:  # what others have written may be damaged in any way; then it says nothing
        return {}
    return found if isinstance(found, dict) else {}


def _licence(card: Mapping[str, Any]) -> Licence | None:
    key, name, link = (card.get(part) for part in ("license", "license_name", "license_link"))
    if isinstance(key, list) and len(key) == 1:
        key = key[0]
    if not isinstance(key, str) or (key.lower() in _UNKNOWN_LICENCES and not name):
        return None
    return Licence(printable(key.lower()), _text(name), _text(link))


def _text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) and value else None


def _languages(card: Mapping[str, Any]) -> tuple[str, ...]:
    found = card.get("language")
    named = found if isinstance(found, list) else [found]
    if not all(isinstance(item, str) for item in named):
        return ()  # none; or Norwegian, which is `no` and which YAML reads as false
    return tuple(sorted(set(map(printable, named))))
