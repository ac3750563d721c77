"""How a new optimizer gets to where a journal left off: it is put through the same calls."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from evomerge.optimize.protocol import Optimizer
from evomerge.run.history import OPTIMIZER, History
from evomerge.run.journal import Event

log = logging.getLogger(__name__)


def replay(events: Iterable[Event], history: History, optimizer: Optimizer) -> None:
    """Put the journaled calls into a new optimizer, so that it goes on where the old one was.

    Where floating point differs from the machine that wrote the journal, the recorded genomes stay
    the truth and the search goes on.

    Args:
        events: the journal.
        history: what these events say.
        optimizer: a new one, of the run's seed.
    """
    drift = 0.0
    for event in events:
        if event["event"] not in ("ask", "tell"):
            continue
        candidate = history.candidates[event["candidate"]]
        if candidate.trial is None or candidate.genome is None:
            continue
        if event["event"] == "ask":
            if candidate.origin != OPTIMIZER:
                optimizer.suggest(candidate.genome)
            trial, genome = optimizer.ask()
            if genome != candidate.genome:
                pairs = zip(genome, candidate.genome, strict=True)
                drift = max(drift, *(abs(new - old) for new, old in pairs))
                optimizer.amend(trial, candidate.genome)
        else:
            # What it was told then: a leader's fitness moves when it is scored again.
            value = event.get("fitness")
            optimizer.tell(candidate.trial, None if value is None else (value,))
    if drift:
        log.warning(
            "This machine computes genomes that differ by up to %.2g from the recorded ones; "
            "the recorded ones stay, and the search goes on.",
            drift,
        )
