"""The digests of a run's search file, by which a file that was changed by hand is noticed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

FROZEN = "frozen"
DIGESTS = "digests"

_FREE = ("executor",)  # sections that do not change the course of a search


def with_digests(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a search file with the digest of each section, as `frozen.digests`.

    The section `executor` has none: it may change while a search goes on.
    """
    # As they are read from the file: 1e-05 may become another number there.
    sections = yaml.safe_load(yaml.safe_dump(dict(config)))
    frozen = dict(config.get(FROZEN) or {})
    digests = {name: _digest(sections[name]) for name in sections if name not in (*_FREE, FROZEN)}
    return {**config, FROZEN: {**frozen, DIGESTS: {**digests, FROZEN: _digest(frozen)}}}


def changed_sections(config: Mapping[str, Any]) -> list[str]:
    """Return the sections that differ from what they were when the run began.

    Args:
        config: the content of a run's search file. Without digests, nothing is known.
    """
    frozen = config.get(FROZEN)
    digests = frozen.get(DIGESTS) if isinstance(frozen, dict) else None
    if not isinstance(frozen, dict) or not isinstance(digests, dict):
        return []
    now = {**config, FROZEN: {name: frozen[name] for name in frozen if name != DIGESTS}}
    names = sorted({*now, *digests} - set(_FREE))
    return [name for name in names if name not in now or _digest(now[name]) != digests.get(name)]


def file_digest(config: Mapping[str, Any]) -> str:
    """Return a digest of a run's search file, without the sections that may change.

    Args:
        config: the content of the file.
    """
    frozen = config.get(FROZEN)
    own = {k: v for k, v in frozen.items() if k != DIGESTS} if isinstance(frozen, dict) else frozen
    return _digest(
        {name: item for name, item in config.items() if name not in _FREE} | {FROZEN: own}
    )


def _digest(section: Any) -> str:
    text = json.dumps(section, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
