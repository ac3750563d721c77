"""Optimizers of genomes as they are named in the section `optimizer` of a search file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from evomerge import optimize
from evomerge.config.optimizer import OPTIMIZER_KINDS, OptimizerConfig
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, InputError
from evomerge.models.references import RUN, is_folder, place
from evomerge.parsing.values import shown
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.space.protocol import Gene, Genome, Space
from evomerge.strategy.gradient.kind import has_gradient

if TYPE_CHECKING:
    from evomerge.optimize.protocol import Optimizer
    from evomerge.problem.problem import Problem
    from evomerge.strategy.genome import GenomeStrategy

_FOR_A_GENE = 8  # candidates, the fewest for each gene in most of our results (docs/concepts.md)


class GenomeOptimizer(OptimizerConfig):
    """An optimizer of genomes, of this package or of another one."""

    sigma: float = Field(1 / 6, gt=0, le=1)
    """initial step size, as a fraction of a gene's range"""
    options: dict[str, Any] = Field(default_factory=dict)
    """further options of this optimizer"""
    start: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """what is tried first, after the baselines: the best candidates of other runs (`run:DIR`)"""

    packages = tuple(
        dict.fromkeys(name for row in optimize.BUILTIN.values() for name in row.packages)
    )
    suits_studies = True

    @property
    def row(self) -> optimize.Builtin | None:
        """What is known of the optimizer; None: another package adds it, or nobody."""
        return optimize.builtin(self.name)

    @property
    def papers(self) -> tuple[str, ...]:
        """The publications of the algorithm."""
        return self.row.papers if self.row else ()

    @property
    def few_documents(self) -> int | None:
        """Documents, of all tasks together, that are enough if all candidates have the same."""
        return self.row.documents if self.row else None

    @property
    def needs_same_documents(self) -> str | None:
        """Why all candidates must be scored on the same documents; None: they need not."""
        if self.row and self.row.is_believing:
            return None
        return f"the optimizer {self.name} compares candidates of all generations"

    def check_name(self) -> None:
        """Raise a ConfigError if there is no such optimizer."""
        names = dict.fromkeys((*optimize.OPTIMIZERS.names(), *OPTIMIZER_KINDS.names()))
        optimize.check_name(self.name, [*names])

    def check_setting(self, config: SearchConfig) -> None:
        """Raise a ConfigError if a key is wrong, whatever the parents are."""
        optimize.check_setting(self.name, config.fitness_values, self.size, self.options)

    def check_starts(self, folder: Path) -> Iterator[str]:
        """Yield a sentence about each start that is no run."""
        for reference in self.start:
            try:
                open_run(reference, folder)
            except InputError as error:
                yield f"`optimizer.start`: {error}"

    def resolve(self, config: SearchConfig, space: Space) -> SearchConfig:
        """Return the search file with the optimizer that `auto` means, by genes and budget."""
        if self.name != "auto" or not space.genes:
            return config
        name = optimize.choose(
            space.genes, self.size, config.budget.candidates, config.fitness_values
        )
        return config.with_values("optimizer", name=name)

    def generation(self, config: SearchConfig, space: Space) -> int:
        """Return the population of the optimizer."""
        return self.create(config, space.genes).population

    def starts(self, space: Space, folder: Path) -> tuple[Genome, ...]:
        """Return the genomes that `start` names, each once."""
        genomes: dict[Genome, None] = {}
        for reference in self.start:
            try:
                genomes |= dict.fromkeys(best_genomes(open_run(reference, folder), space.genes))
            except InputError as error:
                raise ConfigError(f"optimizer.start has {shown(reference)}: {error}") from error
        return tuple(genomes)

    def warnings(self, problem: Problem, workers: int) -> Iterator[str]:
        """Yield warnings of candidates and workers with which the optimizer learns little."""
        config, genes, row = problem.config, len(problem.space.genes), self.row
        baselines = len(problem.space.baselines())
        searched = (config.budget.candidates or 0) - baselines
        if row and 0 < searched <= row.first:
            yield (
                f"the optimizer `{self.name}`, which `auto` takes for few candidates, learns "
                f"nothing before its first {row.first}, and only {searched} are searched beside "
                f"the {baselines} baselines; set budget.candidates to "
                f"{baselines + 3 * row.first} or so."
            )
        else:
            yield from super().warnings(problem, workers)
        if row is None:
            return
        population = self.generation(config, problem.space)
        if row.is_believing and 0 < searched < genes:
            host, objectives = problem.checkpoints[problem.host], problem.evaluator.every
            can_learn = any(objective.can_teach(host) for objective in objectives)
            suits = can_learn and has_gradient(problem.space, config)
            yield (
                f"optimizer.name is {self.name!r}, but {searched} candidates for {genes} genes are "
                f"{searched / population:.1f} of its generations of {population}, from which it "
                f"learns little; set budget.candidates to {baselines + _FOR_A_GENE * genes} or so, "
                "or have fewer genes (a smaller `space.groups`, no `space.components`)"
                f"{', or take `optimizer.name: gradient`' if suits else ''}."
            )
        most, order = row.most_workers or workers, config.executor.order
        if order == "arrival" and workers > most:
            yield (
                f"executor.order is 'arrival', so with {workers} workers {self.name!r} proposes "
                f"candidates before it knows the scores of {workers - 1} others, and finds less "
                f"than with {most} (docs/scaling.md); use fewer workers, or `optimizer.name: cma` "
                "with `executor.order: generation`."
            )
        if order == "generation" and population < workers and row.has_population:
            other = self.name if workers <= most else "cma"
            yield (
                f"of {workers} workers only {population} have a candidate at a time, a generation "
                f"of {self.name!r}; use fewer, or `optimizer: {{name: {other}, population: "
                f"{max(4, workers)}}}`."
            )

    def with_fresh_documents(self, problem: Problem) -> GenomeOptimizer | None:
        """Return CMA-ES for the genes; None: the optimizer was not compared with that."""
        if self.name != "gp" and not (self.row and self.row.is_believing):
            return None
        name = optimize.choose(problem.space.genes, self.size)
        return self.model_copy(update={"name": name, "options": {}})

    def create(self, config: SearchConfig, genes: Sequence[Gene]) -> Optimizer:
        """Return a new optimizer with the search's seed.

        ConfigError: there is no such optimizer, or a setting does not suit it.
        """
        return optimize.create(
            self.name,
            list(genes),
            config.seed,
            population=self.size,
            sigma=self.sigma,
            budget=config.budget.candidates,
            objectives=config.fitness_values,
            options=self.options,
            is_fresh=config.is_fresh,
        )

    def make(self, problem: Problem) -> GenomeStrategy:
        """Return the strategy of this optimizer and the space."""
        from evomerge.strategy.genome import GenomeStrategy

        return GenomeStrategy(
            problem.space,
            self.create(problem.config, problem.space.genes),
            problem.ranking,
            start=problem.start,
            is_fresh=problem.config.is_fresh,
        )


def open_run(reference: str, folder: Path) -> RunFolder:
    """Return the run that an entry of `optimizer.start` names.

    `folder`: where relative paths start from. InputError: the entry names no run.
    """
    if not reference.startswith(RUN):
        raise ConfigError(f"{shown(reference)} is no run; name one as `run:DIR`.")
    paths = [place(reference.removeprefix(RUN), start) for start in (folder, Path.cwd())]
    return RunFolder(next(filter(is_folder, paths), paths[0]))


def best_genomes(run: RunFolder, genes: Sequence[Gene]) -> list[Genome]:
    """Return the genomes of a run's `FINALISTS` best candidates; genes are matched by name.

    Of a front they are candidates that are far apart. ConfigError: the run has other genes.
    """
    from evomerge.run.ranking import FINALISTS, ranking_of  # they import numpy

    record, names = run.record(), {gene.name for gene in genes}
    if different := sorted(names ^ set(record.genes)):
        whose = "this search" if different[0] in names else "that run"
        raise ConfigError(
            f"only {whose} has the gene {different[0]!r}; take one with equal `parents`, `space`."
        )
    labels = {name: alike.choices for alike in record.gene_ranges for name in alike.genes}
    for gene in genes:
        if list(gene.choices) != (choices := labels.get(gene.name, [])):
            what = f"chooses among {', '.join(choices)}" if choices else "is a number"
            raise ConfigError(f"its gene {gene.name!r} {what}; name the same, in the same order.")
    candidates = History(run.events()).candidates
    searched = [each for each in candidates if each.label is None and "genome" in each.origin]
    genomes: list[Genome] = []
    for candidate in ranking_of(record).finalists(searched, FINALISTS):
        values = dict(zip(record.genes, map(float, candidate.origin["genome"]), strict=True))
        if all(gene.low <= values[gene.name] <= gene.high for gene in genes):
            genomes.append(tuple(values[gene.name] for gene in genes))
    if not genomes:
        raise ConfigError("it has no scored candidate in the ranges of this search; widen them.")
    return genomes
