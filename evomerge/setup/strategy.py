"""The optimizer and the strategy of a checked search, its starts, the recipe of a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config.schema import GRADIENT, Frozen, SearchConfig
from evomerge.errors import ConfigError, InputError, SearchError
from evomerge.models.references import RUN, is_folder, place
from evomerge.parsing.values import shown
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.scores import violation
from evomerge.searching.ranking import FINALISTS, ranking_of
from evomerge.setup.checked import CheckedSearch
from evomerge.space.protocol import Gene, Genome, Space
from evomerge.strategy import kinds
from evomerge.strategy.protocol import Strategy

if TYPE_CHECKING:
    from evomerge.optimize.protocol import Optimizer


def make_strategy(checked: CheckedSearch) -> Strategy:
    """Return a new strategy with the search's seed.

    Raises:
        ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    from evomerge.setup.descents import make_descents
    from evomerge.strategy.genome import GenomeStrategy

    config, space = checked.config, checked.space
    if (kind := kinds.strategy_kind(config.optimizer.name)) is not None:
        return kind.make(config, space, checked.objectives, checked.constraints)
    if config.optimizer.descends:
        return make_descents(checked, generation_of(config, space))
    return GenomeStrategy(
        space,
        make_optimizer(config, space.genes),
        checked.ranking.ordered,
        lambda scores: violation(checked.constraints, scores),
        checked.start,
    )


def generation_of(config: SearchConfig, space: Space) -> int:
    """Return the number of proposals in a generation of the strategy; 1: no generations.

    Raises:
        ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    name, is_auto = config.optimizer.name, config.optimizer.population == "auto"
    if name == GRADIENT and config.mode == "pareto" and is_auto:
        return len(config.objectives) + 1  # one between the objectives, and one for each
    if name == GRADIENT or kinds.strategy_kind(name) is not None:
        return kinds.generation_of(config)
    return make_optimizer(config, space.genes).population


def make_optimizer(config: SearchConfig, genes: Sequence[Gene]) -> Optimizer:
    """Return a new optimizer with the search's seed.

    Raises:
        ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    from evomerge.optimize import check_name, create, optimizer_names

    wanted, candidates = config.optimizer, config.budget.candidates
    check_name(wanted.name, (*optimizer_names(), *kinds.strategy_names()))
    population = None if wanted.population == "auto" else wanted.population
    objectives = len(config.objectives) if config.mode == "pareto" else 1
    more = (population, wanted.sigma, candidates, objectives, wanted.options)
    return create(wanted.name, list(genes), config.seed, *more)


def resolve_optimizer(config: SearchConfig, space: Space) -> SearchConfig:
    """Return the search file with the optimizer that `auto` means for the genes of its space."""
    from evomerge.optimize import choose

    wanted = config.optimizer
    if wanted.name != "auto" or not space.genes:
        return config
    population = None if wanted.population == "auto" else wanted.population
    return config.with_values("optimizer", name=choose(space.genes, population))


def recipe_of(space: Space, candidate: Candidate) -> Recipe:
    """Return a candidate's recipe, made again from its origin.

    Raises:
        SearchError: its digest is not the one in the journal.
    """
    label, genome = candidate.label, tuple(candidate.origin.get("genome", ()))
    recipe: Recipe | None
    try:
        recipe = space.decode(genome) if label is None else space.baselines().get(label)
    except (ValueError, IndexError):
        recipe = None
    if recipe is None or recipe.digest != candidate.digest:
        raise SearchError(
            f"Candidate {candidate.number} no longer decodes to the recipe it was scored with; "
            "use the evomerge version that the run's manifest.json names."
        )
    return recipe


def find_starts(config: SearchConfig, space: Space, relative_to: Path) -> tuple[Genome, ...]:
    """Return the genomes that `optimizer.start` names, each once.

    A run gives its `FINALISTS` best candidates; of a front, as many that are far apart.

    Raises:
        ConfigError: a run is missing or damaged, or has other genes.
    """
    found: dict[Genome, None] = {}
    for reference in config.optimizer.start:
        try:
            if not reference.startswith(RUN):
                raise ConfigError("it is no run; name one as `run:DIR`.")
            paths = [place(reference.removeprefix(RUN), at) for at in (relative_to, Path.cwd())]
            run = RunFolder(next(filter(is_folder, paths), paths[0]))
            found |= dict.fromkeys(_of_run(run, space.genes))
        except InputError as error:
            raise ConfigError(f"optimizer.start has {shown(reference)}: {error}") from error
    return tuple(found)


def _of_run(run: RunFolder, genes: Sequence[Gene]) -> list[Genome]:
    """Return the genomes of a run's best candidates; genes are matched by name."""
    config = run.search_file()
    frozen, names = config.frozen or Frozen(), {gene.name for gene in genes}
    if different := sorted(names ^ set(frozen.genes)):
        whose = "this search" if different[0] in names else "that run"
        raise ConfigError(
            f"only {whose} has the gene {different[0]!r}; take one with equal `parents`, `space`."
        )
    labels = {name: item.choices for item in frozen.gene_ranges for name in item.genes}
    candidates = History(run.events()).candidates
    searched = [item for item in candidates if item.label is None and "genome" in item.origin]
    genomes: list[Genome] = []
    for item in ranking_of(config).finalists(searched, FINALISTS):
        values = dict(zip(frozen.genes, map(float, item.origin["genome"]), strict=True))
        genome = [_value(gene, values[gene.name], labels.get(gene.name, ())) for gene in genes]
        known = tuple(value for value in genome if value is not None)
        genomes += [known] if len(known) == len(genome) else []
    if not genomes:
        raise ConfigError("it has no scored candidate in the ranges of this search; widen them.")
    return genomes


def _value(gene: Gene, value: float, labels: Sequence[str]) -> float | None:
    """Return the value that a gene has here, given its value in a run; None if it has none."""
    if gene.kind == "choice":
        label = labels[int(value)] if int(value) < len(labels) else None
        return float(gene.choices.index(label)) if label in gene.choices else None
    return value if gene.low <= value <= gene.high else None
