"""The greedy soup (Wortsman et al. 2022, arXiv 2203.05482), a baseline that depends on scores.

The parents are sorted by their scores on the search documents. The best one is the first member of
the soup, a uniform average. Each of the others becomes a member if the score of the soup with it
does not drop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from evomerge.run.history import Candidate
from evomerge.searching.ranking import Ranking, ordered_on, violation_on

TryOut: TypeAlias = Callable[[Sequence[str]], Candidate | None]
"""Scores the uniform average of these parents; None: the plan of the search ends before."""


def find_greedy_soup(
    parents: Sequence[Candidate], ranking: Ranking, try_out: TryOut
) -> tuple[str, ...] | None:
    """Return the members of the greedy soup, in the order in which they were added.

    A parent without a score is left out, as is one with which the average fails. None if the plan
    ended before, or no parent has a score.
    """
    ordered = ranking.finalists(parents, len(parents))
    if not ordered:
        return None
    best, members = ordered[0], [ordered[0].name]
    for parent in ordered[1:]:
        tried = try_out([*members, parent.name])
        if tried is None:
            return None
        if _is_no_worse(tried, best, ranking):
            best = tried
            members.append(parent.name)
    return tuple(members)


def _is_no_worse(tried: Candidate, best: Candidate, ranking: Ranking) -> bool:
    ours, theirs = (ordered_on(ranking, item, "search") for item in (tried, best))
    if ours is None or theirs is None:
        return False
    broken = [violation_on(ranking, item, "search") or 0.0 for item in (tried, best)]
    return (-broken[0], ours) >= (-broken[1], theirs)
