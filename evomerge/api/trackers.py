"""Logs a running search to an experiment tracker: Trackio or Weights & Biases."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from evomerge.errors import InputError, one_line
from evomerge.report.rows import FINAL_SPLITS, search_score
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import Event
from evomerge.run.logbook import Follower
from evomerge.run.ranking import Ranking, measured
from evomerge.scores import fitness_error
from evomerge.words import storable

PROJECT = "evomerge"
"""The project of all searches."""


def check_installed(name: str) -> None:
    """Check that the package of a tracker is there, without importing it; InputError: it is not."""
    spec = find_spec(name)
    # The folder `wandb` that wandb writes into is found as a package without a file.
    if spec is None or spec.origin is None:
        raise InputError(
            f"--track is {name}, but {name} is not installed; install it with "
            f"`pip install 'evomerge[{name}]'`."
        )


@contextmanager
def tracked(
    name: str | None, run: RunFolder, ranking: Ranking, say: Callable[[str], None]
) -> Iterator[list[Follower]]:
    """Log what the block scores to a tracker (None: to none), and yield its followers.

    `say` is told where people find it, and once if it fails and is not used any more.
    """
    if name is None:
        yield []
        return
    tracker: Any = None
    of = measured(ranking)

    @contextmanager
    def safely() -> Iterator[None]:
        nonlocal tracker
        try:
            with redirect_stdout(io.StringIO()):  # a command's answer alone is printed there
                yield
        except (Exception, SystemExit) as error:
            tracker = None
            say(f"warning: {name} failed ({one_line(error)}); the search goes on without it.")

    def observe(history: History, event: Event) -> None:
        if tracker is None or event["event"] != "tell":
            return
        with safely():
            candidate = history.candidates[event["candidate"]]
            best = ranking.incumbents(history.candidates)
            step: dict[str, Any] = {
                "candidate": candidate.number,
                "fitness": candidate.fitness,
                "best_fitness": best[0].fitness if best else None,
                "failed": sum(item.status == "failed" for item in history.candidates),
            }
            if scores := candidate.scores("search"):
                step |= {f"search/{item.key}": search_score(scores, item) for item in of}
                step["documents"] = sum(scores.fidelity.values())
                step["error"] = fitness_error(ranking.objectives, scores)
            step |= {f"seconds/{phase}": s for phase, s in event.get("seconds", {}).items()}
            tracker.log(storable({k: value for k, value in step.items() if value is not None}))

    with safely():
        tracker = _begin(name, run)
        say(f"logging to {name}, project {PROJECT}, run {run.path.resolve().name}")
    try:
        yield [observe]
    finally:
        if tracker is not None:
            with safely():
                if (winner := History(run.events()).winner) is not None:
                    result: dict[str, Any] = {"winner": winner.number}
                    for split in FINAL_SPLITS:
                        if scores := winner.scores(split):
                            result |= {f"{split}/{o.key}": scores.aggregates[o.key] for o in of}
                    tracker.log(storable(result))
                import_module(name).finish()  # trackio would print at exit if the run alone ended


_QUIET: dict[str, Any] = {"console": "off", "silent": True, "x_save_requirements": False}
_QUIET |= {"disable_code": True, "disable_git": True, "x_disable_machine_info": True}
_QUIET |= {"x_disable_meta": True, "x_disable_stats": True}
"""Settings of wandb: it says nothing, and sends nothing but what is logged."""


def _begin(name: str, run: RunFolder) -> Any:
    """Return a new run of a tracker, on this machine unless the environment says otherwise."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
    module = import_module(name)
    options: dict[str, Any] = {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False}
    if name == "wandb":
        settings = module.Settings(**_QUIET)
        options = {"mode": os.environ.get("WANDB_MODE", "offline"), "settings": settings}
    known = storable({"name": run.path.resolve().name, "config": run.manifest()["config"]})
    return module.init(project=PROJECT, **known, **options)
