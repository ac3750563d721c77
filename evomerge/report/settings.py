"""The settings by which parents differ, as sentences for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from evomerge.config.schema import FrozenSetting
from evomerge.run.history import History
from evomerge.scores import SPLITS


def setting_lines(settings: Iterable[FrozenSetting], names: Mapping[str, str]) -> list[str]:
    """Return one sentence for each setting: its values, and where the merge takes it from.

    Args:
        settings: the settings.
        names: reference of a parent -> its name in a sentence.
    """
    notes = []
    for setting in settings:
        having: dict[str, list[str]] = {}
        for parent, value in setting.parents.items():
            having.setdefault(value, []).append(names[parent])
        told = ", ".join(f"{value} in {listed(parents)}" for value, parents in having.items())
        giver = f"{'the host ' if setting.is_host else ''}{names[setting.giver]}"
        notes.append(
            f"{setting.name} differs between the parents: {told}; the merge takes it from {giver}."
        )
    return notes


def scored_as_themselves(history: History, names: Mapping[str, str]) -> str | None:
    """Return a sentence about the parents whose scores are of two models; None: there are none.

    Args:
        history: the run.
        names: label of a row of a table -> its name there.
    """
    parents = [item for item in history.baselines if item.as_itself]
    if not parents:
        return None
    splits = [split for split in SPLITS if any(split in item.as_itself for item in parents)]
    shown = listed(names.get(item.name, item.name) for item in parents)
    one = len(parents) == 1
    own, them = ("its", "itself") if one else ("their", "themselves")
    return (
        f"On the {listed(splits)} documents {shown} {'is' if one else 'are'} scored as {them}, "
        f"with {own} own config, tokenizer, chat template and dtype, as `evomerge evaluate` does; "
        "on the search documents with those of the merge, as "
        f"{'a candidate' if one else 'candidates'} of the space."
    )


def listed(names: Iterable[str]) -> str:
    """Return names as a part of a sentence: `a, b and c`."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last
