"""The progress bar of a search that is started from Python; in a notebook it is a widget."""

from __future__ import annotations

from types import TracebackType

from tqdm.auto import tqdm

from evomerge.run.history import History
from evomerge.run.journal import Event


class ProgressBar:
    """Shows how many candidates are scored, and the best fitness so far.

    Args:
        total: largest number of candidates; None if the budget has no such bound.
    """

    def __init__(self, total: int | None) -> None:
        self._bar = tqdm(total=total, unit="candidate", desc="preparing")
        self._best: float | None = None

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
                known = candidate.fitness if self._best is None else self._best
                self._best = max(known, candidate.fitness)
                self._bar.set_postfix(best=f"{self._best:.4f}", refresh=False)
        elif event["event"] == "score":
            self._bar.set_description(f"final scores ({event['split']})", refresh=False)
        self._bar.n = len(history.told)
        self._bar.refresh()
