"""Checking a search file from Python."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from evomerge.api.search import content_of, permissions


def validate(
    config: str | PathLike[str] | Mapping[str, Any],
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Check a search file: parents, shapes, tasks, metrics, documents, memory.

    Args:
        config: path of a search file, or its content; see `search`.
        allow_pickle: see `search`.
        allow_code: see `search`.
        trust_code: see `search`.

    Returns:
        what `evomerge validate --json` prints: documents, memory, `genes`, `warnings`; of a search
        in stages one such mapping for each of its `stages`.

    Raises:
        InputError: what is wrong, as one sentence.
    """
    from evomerge.config.schema import parse
    from evomerge.setup import stages
    from evomerge.setup.genes import gene_list
    from evomerge.setup.preflight import summary, warnings
    from evomerge.setup.runs import prepare

    data, source = content_of(config)
    allowed = permissions(allow_pickle, allow_code, trust_code)
    staged = stages.is_staged(data)
    if staged:
        searches = stages.check(data, source.absolute(), allowed)
    else:
        folder = source.absolute().parent
        searches = [prepare(parse(data, str(source)), folder, allowed)]
    answers = [
        {
            **summary(item),
            "genes": gene_list(item),
            "warnings": warnings(item, allow_benchmarks=False),
        }
        for item in searches
    ]
    return {"valid": True, **({"stages": answers} if staged else answers[0])}
