"""The progress bar of a search that is started from Python; in a notebook it is a widget."""

from __future__ import annotations

import math
from types import TracebackType

from tqdm.auto import tqdm

from evomerge.run.history import History
from evomerge.run.lines import Event


class ProgressBar:
    """Shows how many candidates are scored, and the best fitness so far.

    Args:
        total: largest number of candidates; None if the budget has no such bound.
    """

    def __init__(self, total: int | None) -> None:
        self._bar = tqdm(total=total, unit="candidate", desc="preparing")
        self._total, self._best = total, math.nan

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()

    def observe(self, history: History, event: Event) -> None:
        """Update the bar after one event of the search."""
        if event["event"] == "tell":
            candidate = history.candidates[event["candidate"]]
            self._bar.set_description("searching", refresh=False)
            if candidate.fitness is not None and not candidate.is_estimate:
                self._best = max(candidate.fitness, self._best)  # the first value, if it is nan
                self._bar.set_postfix(best=f"{self._best:.4f}", refresh=False)
        elif event["event"] == "finals":
            self._bar.set_description(f"final scores ({event['purpose']})", refresh=False)
            self._bar.total, self._bar.n = event["total"], 0
        elif event["event"] in ("score", "complete"):
            self._bar.n += 1
        if event["event"] in ("ask", "tell"):
            self._bar.total, self._bar.n = self._total, len(history.told)
        self._bar.refresh()
