"""Checking a search file from Python."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from evomerge.api.opening import content_of
from evomerge.trust.consent import Permissions


def validate(
    config: str | PathLike[str] | Mapping[str, Any],
    *,
    allow_code: bool = False,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Check a search file: parents, shapes, tasks, metrics, documents, memory.

    Arguments are as of `search`. Returns what `evomerge validate --json` prints: documents, memory,
    `genes`, `warnings`. An InputError says what is wrong, as one sentence.
    """
    from evomerge.config.schema import parse
    from evomerge.setup.preflight import gene_list, summary, warnings
    from evomerge.setup.runs import folder_of, prepare

    data, source = content_of(config)
    allowed = Permissions(allow_code, trust_code)
    checked = prepare(parse(data, str(source)), folder_of(source), allowed)
    return {
        "valid": True,
        **summary(checked),
        "genes": gene_list(checked),
        "warnings": warnings(checked, allow_benchmarks=False),
    }
