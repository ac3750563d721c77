"""Bayesian optimization with a Gaussian process, by Optuna: for few, dear candidates.

A Gaussian process predicts the losses of all genomes from those that were told, and how sure it is.
The next genome is the one that is expected to improve most on the best one (log EI, Ament et al.
2023, arXiv 2310.20708; of several objectives, on the volume below the front, arXiv 2006.05078).
Open genomes count as points whose losses are not known yet.

The model is made anew for each proposal, and a proposal depends on nothing but the seed and the
genomes that were told or are open. So a search that is resumed computes no proposal anew but those
of known recipes, which were skipped.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from evomerge.compat import quiet
from evomerge.device import torch_threads
from evomerge.optimize import GP_FIRST
from evomerge.optimize.base import SKIPPED_GENOMES, Cube, Vector, levels, losses_of
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene, Genome

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

BATCH = 2
"""Genomes of a generation, by default: so many are proposed before the outcome of the first of
them is known."""

OUTLIER = 3.0
"""See `_scores`."""

_one_at_a_time = threading.Lock()


class GaussianProcess:
    """An `Optimizer`; see there."""

    def __init__(self, genes: Sequence[Gene], setting: Setting) -> None:
        self.population = setting.population or BATCH
        self._cube = Cube(genes, setting.sigma, choices="cells")
        self._objectives, self._seed = setting.objectives, setting.seed
        self._asked = 0
        self._open: dict[Genome, None] = {}
        self._told: dict[Genome, tuple[tuple[float, ...], float]] = {}
        """Losses and violation of each genome that was told; see `BaseOptimizer.learn_all`."""

    def ask(self) -> Genome:
        """Return the genome to try next; see `Optimizer`."""
        return self.replay(self._new())

    def replay(self, genome: Genome) -> Genome:
        """Note a genome as asked; nothing is computed."""
        self._asked += 1
        self._open[genome] = None
        return genome

    def tell(self, genome: Genome, values: Sequence[float] | None, violation: float = 0.0) -> None:
        """Learn the outcome of a genome; see `Optimizer`."""
        outcome = losses_of(values, violation, self._objectives)
        self._cube.point(genome)  # checks that it belongs to the space
        self._open.pop(genome, None)
        self._told[genome] = outcome

    def _new(self) -> Genome:
        """Return the next genome; a random one if it is known already."""
        random = np.random.RandomState([self._seed % 2**32, self._asked])
        if self._asked < GP_FIRST:
            genome = self._cube.genome(self._first[self._asked])
        else:
            genome = self.propose(random.randint(2**31))
        for _ in range(SKIPPED_GENOMES):
            if genome not in self._told and genome not in self._open:
                break
            genome = self._cube.genome(random.uniform(size=len(self._cube.genes)))
        return genome

    @cached_property
    def _first(self) -> Vector:
        from scipy.stats import norm, qmc

        cube = self._cube
        even = np.asarray(qmc.Sobol(len(cube.genes), seed=self._seed % 2**32).random_base2(4))
        is_choice = [gene.kind == "choice" for gene in cube.genes]
        return np.where(is_choice, even, cube.start + cube.step * norm.ppf(even))

    def propose(self, seed: int) -> Genome:
        """Return the genome that is expected to improve most; it may be a known one."""
        import optuna
        import torch
        from optuna.samplers import GPSampler
        from optuna.study import StudyDirection
        from optuna.trial import TrialState, create_trial

        names = [str(index) for index in range(len(self._cube.genes))]
        axes = dict(zip(names, map(_distribution, self._cube.genes), strict=True))
        told = sorted(self._told.items())
        outcomes = [outcome for _, outcome in told]
        rows = [(genome, TrialState.COMPLETE) for genome, _ in told]
        rows += [(genome, TrialState.RUNNING) for genome in sorted(self._open)]
        values: list[list[float] | None] = list(_scores(outcomes)) if outcomes else []
        values += [None] * len(self._open)
        with _quiet(), torch.inference_mode(False), torch.enable_grad():
            sampler = GPSampler(seed=seed, n_startup_trials=1)
            directions = [StudyDirection.MAXIMIZE] * self._objectives
            study = optuna.create_study(directions=directions, sampler=sampler)
            for (genome, state), score in zip(rows, values, strict=True):
                params = dict(zip(names, genome, strict=True))
                study.add_trial(
                    create_trial(state=state, params=params, distributions=axes, values=score)
                )
            params = study.ask(axes).params
        return tuple(float(params[name]) for name in names)


def _scores(outcomes: Sequence[tuple[Sequence[float], float]]) -> Iterator[list[float]]:
    """Yield what the model learns for each outcome, higher for better.

    Outcomes that break constraints, and failures, are below all others: the worse, the lower, in
    equal distances. A broken merge may have a perplexity of a million; so a loss counts as at most
    `OUTLIER` times as far above the median as the best one is below it.
    """
    losses = np.array([losses for losses, _ in outcomes])
    violations = np.array([violation for _, violation in outcomes])
    kept = losses[violations == 0]
    if not len(kept):
        kept = np.zeros((1, losses.shape[1]))
    best, median, most = kept.min(axis=0), np.median(kept, axis=0), kept.max(axis=0)
    most = np.where(median > best, np.minimum(most, median + OUTLIER * (median - best)), most)
    spread = np.where(most > best, most - best, 1.0)
    broken, places = np.unique(violations, return_inverse=True)
    for row, place in zip(losses, places, strict=True):
        below = most + spread * place / len(broken)
        yield (-(below if broken[place] else np.minimum(row, most))).tolist()


def _distribution(gene: Gene) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if gene.kind == "real":
        return FloatDistribution(gene.low, gene.high)
    if gene.kind == "choice":
        return CategoricalDistribution([gene.low + k for k in range(levels(gene) or 1)])
    return IntDistribution(round(gene.low), round(gene.high))


@contextmanager
def _quiet() -> Iterator[None]:
    """Let Optuna not log that a study was made, and sums not depend on how many threads make them.

    Its level, the filters of warnings and torch's threads, of which workers in this process choose
    the number, belong to the whole process, so one thread at a time.
    """
    import optuna  # noqa: F401 - it sets the level of its logger when it is first imported

    silent = warnings.catch_warnings(action="ignore")
    with _one_at_a_time, silent, quiet("optuna"), torch_threads(1):
        yield
