"""Bringing a new strategy to the state in which the journal ends.

The calls that the journal records are made again, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evomerge.run.history import Candidate, History
from evomerge.run.lines import Event
from evomerge.strategy.protocol import Strategy


def is_full(strategy: Strategy, pending: Sequence[Candidate]) -> bool:
    """Whether these candidates complete a generation, so that their outcomes can be told."""
    return bool(pending) and strategy.left == strategy.generation


def replay_generations(history: History, strategy: Strategy) -> list[Candidate]:
    """Repeat the calls of a search that tells outcomes generation by generation.

    Returns:
        the candidates whose outcomes the strategy was not told yet, in the order of asking.
    """
    pending: list[Candidate] = []
    for candidate in history.candidates:
        if candidate.is_proposed and is_full(strategy, pending):
            tell_all(strategy, pending)
        strategy.repeat(candidate.number, candidate.label, candidate.origin)
        pending.append(candidate)
    return pending


def replay_arrivals(events: Iterable[Event], history: History, strategy: Strategy) -> None:
    """Repeat the calls of a search that tells every outcome at once, in the journal's order."""
    for event in events:
        if event["event"] == "ask":
            candidate = history.candidates[event["candidate"]]
            strategy.repeat(candidate.number, candidate.label, candidate.origin)
        elif event["event"] == "tell":
            tell_all(strategy, [history.candidates[event["candidate"]]])


def tell_all(strategy: Strategy, pending: list[Candidate]) -> None:
    """Tell a strategy the outcomes of these candidates, and empty the list.

    Raises:
        RuntimeError: a candidate has no outcome yet.
    """
    for candidate in pending:
        if candidate.told is None:
            raise RuntimeError(f"Candidate {candidate.number} has no outcome yet.")
        strategy.tell(candidate.number, candidate.told)
    pending.clear()
