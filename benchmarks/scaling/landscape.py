"""A landscape of fitness that real searches have recorded.

The embedded models are searched over the space of `configs/quickstart.yaml`, by random search and
by CMA-ES, and the fitness of each recipe is kept. Between recorded recipes the landscape is an
interpolation by radial basis functions. It is smoother than the real one. So a search on it says
how workers and orders compare, not which fitness is reached in truth.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from evomerge.config.schema import load
from evomerge.execute.protocol import Job
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.scores import Outcome
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare, reopen
from evomerge.setup.search import run_search
from evomerge.setup.strategy import recipe_of
from evomerge.space.protocol import Space
from scaling.outcomes import scores_of

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "configs" / "quickstart.yaml"
RUNS = ROOT / "runs"

RECORDERS = ("random", "cma")
"""The optimizers whose searches are recorded. CMA-ES looks closely where the fitness is high."""

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Landscape:
    """The fitness of every recipe of a space.

    Attributes:
        space: the space.
        recorded: recorded fitness by digest of the recipe, in [0, 1].
        between: the interpolation between the recorded weights.
        error: root mean square error of an interpolation without a fifth of the recipes, on these.
    """

    space: Space
    recorded: dict[str, float]
    between: RBFInterpolator
    error: float

    def score(self, job: Job) -> Outcome:
        """Return scores with the fitness of the job's recipe, rounded to whole documents."""
        value = self.recorded.get(job.recipe.digest)
        if value is None:
            value = float(self.between(_weights(job.recipe)[None])[0])
        return scores_of(job, float(np.clip(value, 0.0, max(self.recorded.values()))))


def record(candidates: int) -> Landscape:
    """Return the landscape of two searches with this many candidates each.

    They are run if the folder `runs` does not have them yet.
    """
    recorded: dict[str, float] = {}
    points: list[Points] = []
    fitness: list[float] = []
    for optimizer in RECORDERS:
        run = _search(optimizer, candidates)
        problem, history = reopen(run), History(run.events())
        for item in history.candidates[:candidates]:
            if item.fitness is None or item.digest in recorded:
                continue
            recorded[item.digest] = item.fitness
            if item.label is None:  # baselines use another method than the space
                points.append(_weights(recipe_of(problem.space, item)))
                fitness.append(item.fitness)
    places, values = np.array(points), np.array(fitness)
    out = np.arange(len(values)) % 5 == 0
    missed = _interpolate(places[~out], values[~out])(places[out]) - values[out]
    error = float(np.sqrt(np.mean(missed**2)))
    return Landscape(problem.space, recorded, _interpolate(places, values), error)


def _search(optimizer: str, candidates: int) -> RunFolder:
    """Run or finish a search, without finals on more than one candidate."""
    path = RUNS / f"landscape-{optimizer}"
    if not path.exists():
        wanted = [f"optimizer.name={optimizer}", f"budget.candidates={candidates}"]
        config = load(FILE, [*wanted, "evaluation.validation.finalists=1"])
        RunFolder.create(path, freeze(prepare(config, FILE.parent)))
    run = RunFolder(path)
    known = History(run.events())
    if sum(item.told is not None for item in known.candidates) < candidates:
        print(f"recording {candidates} candidates of {optimizer} in {path.name}", flush=True)
        logging.disable(logging.WARNING)
        run_search(reopen(run), run, {"candidates": candidates})
    return run


def _interpolate(points: Points, fitness: Points) -> RBFInterpolator:
    """Return a smoothed interpolation, since the fitness has the noise of 200 documents."""
    return RBFInterpolator(points, fitness, kernel="thin_plate_spline", smoothing=0.1)


def _weights(recipe: Recipe) -> Points:
    """Return all weights of a recipe, in the order of its parts, shape (genes,)."""
    parts = (source for layer in recipe.every_layer() for source in layer.sources)
    return np.array([source.knobs["weight"] for source in parts], dtype=float)
