"""The strategy of a search, an optimizer or descents; its starts; the recipe of a candidate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config.optimizer import OptimizerConfig
from evomerge.config.schema import GRADIENT, SearchConfig
from evomerge.config.space import ParametersConfig
from evomerge.errors import ConfigError, InputError, SearchError, among
from evomerge.evaluation.inference.rows import ANY, Form
from evomerge.models.references import RUN, is_folder, place
from evomerge.optimize import choose, create
from evomerge.optimize.protocol import Optimizer
from evomerge.parsing.values import shown
from evomerge.problem.documents import is_fresh
from evomerge.problem.memory import check_fit
from evomerge.problem.problem import Problem
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.ranking import FINALISTS, ranking_of
from evomerge.scores import TOKENS, Objective, violation
from evomerge.space.parameters import is_smooth
from evomerge.space.protocol import Gene, Genome, Space
from evomerge.strategy import kinds
from evomerge.strategy.genome import GenomeStrategy
from evomerge.strategy.gradient import BATCH, CHUNK, STEPS, GradientStrategy
from evomerge.strategy.lessons import Lessons
from evomerge.strategy.protocol import Strategy

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator

_FOR_GRADIENTS = 8  # genes, the fewest with which a tenth of the candidates was enough


def make_strategy(problem: Problem) -> Strategy:
    """Return a new strategy with the search's seed.

    ConfigError: there is no such optimizer, or a setting does not suit it.
    """

    config, space = problem.config, problem.space
    if (kind := kinds.strategy_kind(config.optimizer.name)) is not None:
        return kind.make(config, space, problem.objectives, problem.constraints)
    if config.optimizer.descends:
        return make_descents(problem, generation_of(config, space))
    return GenomeStrategy(
        space,
        make_optimizer(config, space.genes),
        problem.ranking.ordered,
        violation=lambda scores: violation(problem.constraints, scores),
        start=problem.start,
        is_fresh=is_fresh(config),
    )


def generation_of(config: SearchConfig, space: Space) -> int:
    """Return the number of proposals in a generation of the strategy; 1: no generations.

    ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    name, is_auto = config.optimizer.name, config.optimizer.population == "auto"
    if name == GRADIENT and config.mode == "pareto" and is_auto:
        return len(config.objectives) + 1  # one between the objectives, and one for each
    if name == GRADIENT or kinds.strategy_kind(name) is not None:
        return config.optimizer.size or 1
    return make_optimizer(config, space.genes).population


def make_optimizer(config: SearchConfig, genes: Sequence[Gene]) -> Optimizer:
    """Return a new optimizer with the search's seed.

    ConfigError: there is no such optimizer, or a setting does not suit it.
    """

    optimizer = config.optimizer
    return create(
        optimizer.name,
        list(genes),
        config.seed,
        population=optimizer.size,
        sigma=optimizer.sigma,
        budget=config.budget.candidates,
        objectives=config.fitness_values,
        options=optimizer.options,
        is_fresh=is_fresh(config),
    )


def resolve_optimizer(config: SearchConfig, space: Space) -> SearchConfig:
    """Return the search file with the optimizer that `auto` means, by the genes and the budget."""
    optimizer = config.optimizer
    if optimizer.name != "auto" or not space.genes:
        return config
    candidates = config.budget.candidates
    name = choose(space.genes, optimizer.size, candidates, config.fitness_values)
    return config.with_values("optimizer", name=name)


def recipe_of(space: Space, candidate: Candidate) -> Recipe:
    """Return a candidate's recipe, made again from its origin.

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

    ConfigError: a run is missing or damaged, or has other genes.
    """
    genomes: dict[Genome, None] = {}
    for reference in config.optimizer.start:
        try:
            genomes |= dict.fromkeys(_of_run(run_of(reference, relative_to), space.genes))
        except InputError as error:
            raise ConfigError(f"optimizer.start has {shown(reference)}: {error}") from error
    return tuple(genomes)


def run_of(reference: str, relative_to: Path) -> RunFolder:
    """Return the run that an item of `optimizer.start` names; InputError: it names none."""
    if not reference.startswith(RUN):
        raise ConfigError(f"{shown(reference)} is no run; name one as `run:DIR`.")
    paths = [place(reference.removeprefix(RUN), at) for at in (relative_to, Path.cwd())]
    return RunFolder(next(filter(is_folder, paths), paths[0]))


def _of_run(run: RunFolder, genes: Sequence[Gene]) -> list[Genome]:
    """Return the genomes of a run's best candidates; genes are matched by name."""
    record, names = run.record(), {gene.name for gene in genes}
    if different := sorted(names ^ set(record.genes)):
        whose = "this search" if different[0] in names else "that run"
        raise ConfigError(
            f"only {whose} has the gene {different[0]!r}; take one with equal `parents`, `space`."
        )
    labels = {name: alike.choices for alike in record.gene_ranges for name in alike.genes}
    for gene in genes:
        if list(gene.choices) != (there := labels.get(gene.name, [])):
            what = f"chooses among {', '.join(there)}" if there else "is a number"
            raise ConfigError(f"its gene {gene.name!r} {what}; name the same, in the same order.")
    candidates = History(run.events()).candidates
    searched = [item for item in candidates if item.label is None and "genome" in item.origin]
    genomes: list[Genome] = []
    for item in ranking_of(record).finalists(searched, FINALISTS):
        values = dict(zip(record.genes, map(float, item.origin["genome"]), strict=True))
        if all(gene.low <= values[gene.name] <= gene.high for gene in genes):
            genomes.append(tuple(values[gene.name] for gene in genes))
    if not genomes:
        raise ConfigError("it has no scored candidate in the ranges of this search; widen them.")
    return genomes


def check_descents(
    config: SearchConfig,
    space: Space,
    objectives: Sequence[Objective],
    evaluator: Evaluator,
    documents: Mapping[str, Sequence[int]],
) -> None:
    """Check that a search file suits descents: genes with a gradient, documents with a loss.

    Args:
        documents: the search documents, by task.

    ConfigError: it does not.
    """
    if not has_gradient(space, config):
        raise ConfigError(
            "`optimizer.name` is gradient, but no gene of this space is a number with a gradient; "
            "search weights or another number, or take another optimizer."
        )
    loss, tasks = config.optimizer.loss or "reference", evaluator.tasks_of("search")
    for item in objectives:
        objective = None if item.is_exact else tasks.of(item.task)
        if objective is None or not objective.has_answers or item.metric == TOKENS:
            raise ConfigError(
                f"`optimizer.name` is gradient, but {item.key} has no reference answers to learn "
                "from; take it out of `objectives`, or take another optimizer."
            )
        if loss == "successes" and not item.higher_is_better:
            raise ConfigError(
                f"`optimizer.loss` is successes, but of {item.key} a lower value is better, so no "
                "answer is right; take a metric like exact_match, or set `loss` to reference."
            )
        for task in tasks.info.leaves(item.task):
            is_generated = tasks.info.tasks[task].generates
            if loss == "reference" or (loss == "successes" and not is_generated):
                objective.check_answers(task, documents.get(task, ()))
    learned = dict.fromkeys(item.task for item in tasks.info.of_tasks(objectives))
    generating = [task for task in learned if tasks.info.tasks[task].generates]
    for name in config.optimizer.forms:
        if name != ANY and name not in generating:
            raise ConfigError(
                f"`optimizer.form` names {name!r}, which is no task that generates answers; "
                f"allowed are {among(name, generating)}"
            )


def search_by_gradients(problem: Problem) -> Problem | None:
    """Return the same search by gradients with a tenth of the candidates, if that is enough.

    So it was where right answers are whole references and there are `_FOR_GRADIENTS` genes or more
    (docs/gradients.md). None: it is another search, or one that suits no descents.
    """
    config, tasks = problem.config, problem.evaluator.tasks_of("search")
    is_other = config.optimizer.descends or config.mode != "weighted" or bool(config.constraints)
    numbers = [gene.kind == "real" and not gene.switch for gene in problem.space.genes]
    is_other |= len(numbers) < _FOR_GRADIENTS or not all(numbers)
    if is_other or any(item.is_exact for item in problem.objectives):
        return None
    objectives = tasks.info.of_tasks(problem.objectives)
    if not all(tasks.of(it.task).learns_whole(it.task, it.metric) for it in objectives):
        return None
    least = len(problem.space.baselines()) + STEPS // CHUNK
    candidates = max(least, (config.budget.candidates or 0) // 10)
    config = config.model_copy(update={"optimizer": OptimizerConfig(name=GRADIENT)})
    config = config.with_values("budget", candidates=candidates, hours=None)
    config = config.with_values("executor", order="generation")
    other = replace(problem, config=config, loaded=problem.evaluator)
    try:
        check_descents(
            config, problem.space, problem.objectives, problem.evaluator, problem.splits["search"]
        )
        problem.evaluator.check(other.merges, {})
        check_fit(other)
    except InputError:
        return None
    return other


def has_gradient(space: Space, config: SearchConfig) -> bool:
    """Whether a descent moves a gene: a number that does more than to select something."""
    methods = config.space.methods if isinstance(config.space, ParametersConfig) else ()
    return any(
        gene.kind == "real" and not gene.switch and is_smooth(gene.name, methods)
        for gene in space.genes
    )


def make_descents(problem: Problem, count: int) -> GradientStrategy:
    """Return the strategy of so many descents at once."""
    config, optimizer = problem.config, problem.config.optimizer
    info, baselines = problem.evaluator.tasks_of("search").info, problem.space.baselines()
    objectives = list(info.of_tasks(problem.objectives))
    documents = {item.task: problem.splits["search"][item.task] for item in objectives}
    lessons = Lessons(
        optimizer.loss or "reference",
        documents,
        config.seed,
        objectives=objectives,
        generated={task for task in documents if info.tasks[task].generates},
        parents={name: recipe for name, recipe in baselines.items() if name in config.parents},
    )
    return GradientStrategy(
        problem.space,
        lessons,
        problem.ranking.ordered,
        lambda scores: violation(problem.constraints, scores),
        steps=optimizer.steps or STEPS,
        batch=optimizer.batch or BATCH,
        rate=optimizer.rate or 0.03,
        descents=count,
        weighed=len(problem.objectives) if config.mode == "pareto" else 0,
        forms={task: Form(**form.model_dump()) for task, form in optimizer.forms.items()},
        seed=config.seed,
    )
