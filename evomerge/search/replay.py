"""How a new strategy gets to where a journal left off: it is put through the same calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event
from evomerge.strategy.protocol import Strategy


def is_full(strategy: Strategy, untold: Sequence[Candidate]) -> bool:
    """Whether these candidates complete a generation, so that they can be told."""
    return bool(untold) and strategy.left == strategy.generation


def replay_generations(history: History, strategy: Strategy) -> list[Candidate]:
    """Repeat the calls of a search by generation.

    Returns:
        The candidates that the strategy has been asked for and not told of yet.
    """
    untold: list[Candidate] = []
    for candidate in history.candidates:
        if candidate.label is None and is_full(strategy, untold):
            tell_all(strategy, untold)
        strategy.repeat(candidate.number, candidate.label, candidate.origin)
        untold.append(candidate)
    return untold


def replay_arrivals(events: Iterable[Event], history: History, strategy: Strategy) -> None:
    """Repeat the calls of a search that tells outcomes as they come, in the journal's order."""
    for event in events:
        if event["event"] == "ask":
            candidate = history.candidates[event["candidate"]]
            strategy.repeat(candidate.number, candidate.label, candidate.origin)
        elif event["event"] == "tell":
            tell_all(strategy, [history.candidates[event["candidate"]]])


def tell_all(strategy: Strategy, untold: list[Candidate]) -> None:
    """Tell a strategy what came out of candidates, and empty the list."""
    for candidate in untold:
        if candidate.told is None:
            raise RuntimeError(f"Candidate {candidate.number} has no outcome yet.")
        strategy.tell(candidate.number, candidate.told)
    untold.clear()
