"""Short names of models and scores: what tables show, without the paths of this machine."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evomerge.errors import printable
from evomerge.models.references import split_kind

_LONGEST = 4096
"""Largest number of characters of a name; no path is longer."""


def short_names(references: Iterable[str]) -> dict[str, str]:
    """Return a short name for each reference: reference -> name.

    Hub ids, `zoo:` names and the labels of baselines are unchanged. The path of a local folder (of
    a model, an adapter or a run) is cut to its last component, or to as many components at the end
    as are needed for all names to differ. A name is one line, and all of it can be shown.
    """
    every = list(dict.fromkeys(references))
    longest = max((reference.count("/") for reference in every), default=0) + 1
    for count in range(1, longest + 1):
        names = {
            reference: printable(_shortened(reference, count), _LONGEST) for reference in every
        }
        if len(set(names.values())) == len(every):
            return names
    return names


def short_scores(columns: Sequence[str]) -> dict[str, str]:
    """Return a short name for each score: `task/metric` -> `metric`, if all metrics differ."""
    metrics = [column.rpartition("/")[2] for column in columns]
    return {
        column: metric if metrics.count(metric) == 1 else column
        for column, metric in zip(columns, metrics, strict=True)
    }


def _shortened(reference: str, count: int) -> str:
    """Return a reference in which local paths are cut to their last `count` components."""

    def short(path: str) -> str:
        local = path.startswith(("/", "~", "."))
        return "/".join(path.rstrip("/").split("/")[-count:]) if local else path

    kind, rest = split_kind(reference)
    return kind + "+".join(map(short, rest.split("+")))
