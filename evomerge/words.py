"""What people read in all places: short names of models and scores, amounts, a few sentences."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evomerge.errors import printable, without_controls
from evomerge.parsing.values import replaced

_LONGEST = 4096  # characters of a name; no path is longer


def short_names(references: Iterable[str]) -> dict[str, str]:
    """Return reference -> short name, in one line.

    The path of a local folder is cut to its last component, or to as many as are needed for all
    names to differ; Hub ids, `zoo:` names and the labels of baselines are unchanged.
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


def _shortened(reference: str, count: int) -> str:
    """Return a reference in which local paths are cut to their last `count` components."""

    def short(path: str) -> str:
        local = path.startswith(("/", "~", "."))
        return "/".join(path.rstrip("/").split("/")[-count:]) if local else path

    return "+".join(map(short, reference.split("+")))


def shown_score(key: str) -> str:
    """Return `task/metric` as people read it: a function without its module, `short/score`."""
    task, slash, metric = key.rpartition("/")
    return f"{task.rpartition(':')[2]}{slash}{metric}"


def short_scores(columns: Sequence[str]) -> dict[str, str]:
    """Return a short name for each score: `task/metric` -> `metric`, if all metrics differ."""
    metrics = [column.rpartition("/")[2] for column in columns]
    shown = [shown_score(column) for column in columns]
    return {
        column: metric if metrics.count(metric) == 1 else name if shown.count(name) == 1 else column
        for column, metric, name in zip(columns, metrics, shown, strict=True)
    }


def renamed(text: str, names: Mapping[str, str], before: str = "") -> str:
    """Return a text in which names take the place of references that follow `before`."""
    for reference in sorted(names, key=len, reverse=True):
        text = text.replace(f"{before}{reference}", f"{before}{names[reference]}")
    return text


def storable(value: Any) -> Any:
    """Return a value that other programs can store: keys in one line, no control characters."""

    def without(item: Any) -> Any:
        return without_controls(item) if isinstance(item, str) else item

    return replaced(value, without, lambda key: printable(str(key)))


def size_text(count: float) -> str:
    """Return a number of bytes as text, such as `1.23 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def duration(seconds: float) -> str:
    """Return a time as text: `48 s`, `12 min 5 s`, `3 h 20 min`, `2 d 4 h`."""
    rest = round(seconds)
    for name, size, below, part in (("d", 86400, "h", 3600), ("h", 3600, "min", 60)):
        if rest >= size:
            return f"{rest // size} {name} {rest % size // part} {below}"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{rest} s"


def fine_duration(seconds: float) -> str:
    """Return a time as text, with two digits below ten seconds: `0.17 s`, `3.5 s`, `48 s`."""
    return f"{seconds:.2g} s" if seconds < 9.5 else duration(seconds)
