"""The kinds of searches that are killed: small, of embedded models, each with another course."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from search_run import SMALL as WEIGHTS

TWO = {"kind": "processes", "workers": 2}
SPLITS = WEIGHTS["evaluation"]
PATHS = WEIGHTS | {
    "base": None,
    "space": {
        "kind": "dataflow",
        "variant": "structured",
        "host": "zoo:maths",
        "outside": {"embeddings": "zoo:language", "head": "zoo:language"},
        "repeats": 1,
        "ends": "free",
        "layers": [4, 8],
        "scales": [0.5, 1.5],
    },
    "optimizer": {"name": "cma-margin"},
    "objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}],
}
SKILLS = WEIGHTS | {
    "parents": ["zoo:language", "zoo:maths", "zoo:facts"],
    "space": {},
    "dtype": "bfloat16",
    "objectives": [
        {"task": "zoo_l2", "metric": "exact_match"},
        {"task": "zoo_maths", "metric": "exact_match"},
        {"task": "zoo_facts", "metric": "acc"},
    ],
    "evaluation": SPLITS | {"search": {"documents": 12}},
}


def _fewer(name: str, **setting: Any) -> dict[str, Any]:
    return WEIGHTS | {"evaluation": SPLITS | {name: {"enabled": True, **setting}}}


@dataclass(frozen=True)
class Search:
    """A kind of search.

    Attributes:
        file: its search file.
        lines: `same` if the journal does not depend on kills; `sorted` if only the order of
            outcomes may, because several workers score; `free` if the course depends on which
            outcome arrives first.
        raised: the search has ended, and is killed while it goes on to so many candidates; 0: it is
            killed from its start on.
    """

    file: dict[str, Any]
    lines: str = "same"
    raised: int = 0


SEARCHES: dict[str, Search] = {
    "weights": Search(WEIGHTS),
    "raised": Search(WEIGHTS, raised=36),
    "paths": Search(PATHS),
    "front": Search(
        PATHS
        | {
            "optimizer": {"name": "auto", "population": 6},
            "mode": "pareto",
            "objectives": [
                {"task": "zoo_l2_maths", "metric": "exact_match"},
                {"metric": "layers"},
            ],
        }
    ),
    "pool": Search(
        WEIGHTS
        | {
            "parents": ["zoo:language", "zoo:maths", "zoo:facts"],
            "space": WEIGHTS["space"] | {"most_parents": 2, "groups": "one"},
        }
    ),
    "racing": Search(_fewer("racing", minimum=6, confidence=0.9)),
    "processes": Search(WEIGHTS | {"executor": TWO}, "sorted"),
    "arrival": Search(WEIGHTS | {"executor": TWO | {"order": "arrival"}}, "free"),
}
