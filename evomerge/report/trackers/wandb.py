"""Weights & Biases."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge.report.trackers.protocol import PROJECT, Row, TrackedRun

START, END = 30.0, 120.0
"""Seconds that wandb may take to open a run and to upload its last data."""


class WandbRun:
    """A run of Weights & Biases; offline unless `WANDB_MODE` says otherwise.

    An offline run is a folder in `WANDB_DIR`, which `wandb sync` uploads. Offline, wandb cannot
    continue such a folder, so each session writes the whole search into one of its own; all have
    the same run id.
    """

    def __init__(self, run: TrackedRun, warn: Callable[[str], None]) -> None:
        mode: Any = os.environ.get("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        import wandb

        self._wandb = wandb
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            init_timeout=START,
            finish_timeout=END,
            finish_timeout_raises=True,
        )
        try:
            self._run = wandb.init(
                project=PROJECT,
                id=run.id,
                name=run.name,
                group=run.group,
                config=dict(run.config),
                resume="allow",
                mode=mode,
                settings=settings,
            )
            self._run.define_metric("candidate")
            self._run.define_metric("*", step_metric="candidate")
        except BaseException:
            wandb.teardown()
            raise
        self.where = f"the run is at {self._run.url}"
        if mode != "online" or not self._run.url:
            quoted = shlex.quote(str(self._run.settings.sync_dir))
            self.where = f"`wandb sync {quoted}` uploads the run"

    def logged(self) -> int:
        """Return the number of steps that the server has; 0 offline."""
        return int(self._run.step)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step."""
        self._run.log(dict(metrics), step=step)

    def summarize(self, step: int, values: Mapping[str, Any], finals: Sequence[Row]) -> None:
        """Write the values and the table `finals` to the run's summary."""
        self._run.summary.update(dict(values))
        if finals:
            rows = [list(row.values()) for row in finals]
            self._run.summary["finals"] = self._wandb.Table(columns=list(finals[0]), data=rows)

    def finish(self, *, completed: bool) -> None:
        """Finish the run, and end wandb's process."""
        try:
            self._run.finish(exit_code=0 if completed else 1)
        finally:
            self._wandb.teardown()
