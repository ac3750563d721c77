"""Trackio, Hugging Face's tracker that keeps its data on this machine."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from evomerge.errors import one_line
from evomerge.report.trackers.protocol import PROJECT, Row, TrackedRun


class TrackioRun:
    """A run of trackio, in `TRACKIO_DIR` (by default a folder in Hugging Face's cache).

    It goes to a Space or a server only if the user has set `TRACKIO_SPACE_ID` or
    `TRACKIO_SERVER_URL`. Trackio continues a run by its name, which therefore has digits of the id.
    """

    def __init__(self, run: TrackedRun, warn: Callable[[str], None]) -> None:
        import trackio

        self._trackio, self._show = trackio, warnings.showwarning
        self._report_failures(warn)
        name = f"{run.name}-{run.id[:6]}"
        try:
            self._run = trackio.init(
                project=PROJECT,
                name=name,
                group=run.group,
                config=dict(run.config),
                resume="allow",
                embed=False,
                auto_log_cpu=False,
                auto_log_gpu=False,
            )
        except BaseException:
            warnings.showwarning = self._show
            raise
        self.where = f"`trackio show --project {PROJECT}` shows the run {name}"

    def logged(self) -> int:
        """Return the number of steps of earlier sessions."""
        return int(self._run._next_step)  # trackio tells it in no other way

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def summarize(self, step: int, values: Mapping[str, Any], finals: Sequence[Row]) -> None:
        """Log the values and the table `finals` at the last step, so that they are no new step."""
        table = self._trackio.Table(
            columns=list(finals[0]), data=[[*row.values()] for row in finals]
        )
        self._run.log({**values, "finals": table}, step=step)

    def finish(self, *, completed: bool) -> None:
        """Write what is left."""
        try:
            self._trackio.finish()
        finally:
            warnings.showwarning = self._show

    def _report_failures(self, warn: Callable[[str], None]) -> None:
        """Report trackio's warnings by `warn`. Trackio raises no errors, and writes in a thread."""
        home, show = Path(self._trackio.__file__).parent, self._show

        def report(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if Path(filename).is_relative_to(home):
                warn(one_line(message))
            else:
                show(message, category, filename, lineno, file, line)

        warnings.showwarning = report
