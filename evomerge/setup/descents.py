"""Descents of a search: whether its file suits them, what their steps cost, and their strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.config.space import ParametersConfig
from evomerge.errors import ConfigError, did_you_mean
from evomerge.evaluation.inference.rows import ANY, Form
from evomerge.merging.methods import get_method
from evomerge.scores import TOKENS, Objective, violation
from evomerge.setup.checked import CheckedSearch
from evomerge.space.pool import PRIORITY
from evomerge.space.protocol import Space
from evomerge.strategy.gradient import BATCH, STEPS, GradientStrategy
from evomerge.strategy.lessons import Lessons

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator


def check_descents(
    config: SearchConfig,
    space: Space,
    objectives: Sequence[Objective],
    evaluator: Evaluator,
    documents: Mapping[str, Sequence[int]],
) -> None:
    """Check that a search file suits descents: genes with a slope, documents with a loss.

    Args:
        documents: the search documents, by task.

    Raises:
        ConfigError: it does not.
    """
    if not has_slope(space, config):
        raise ConfigError(
            "`optimizer.name` is gradient, but no gene of this space is a number with a slope; "
            "search weights or another number, or take another optimizer."
        )
    if config.executor.order == "arrival":
        raise ConfigError(
            "`optimizer.name` is gradient, but `executor.order` is arrival; set it to generation."
        )
    loss, tasks = config.optimizer.loss or "reference", evaluator.tasks_of("search")
    for item in objectives:
        harness = tasks.harness
        if item.is_exact or not harness or item.task in tasks.functions or item.metric == TOKENS:
            raise ConfigError(
                f"`optimizer.name` is gradient, but {item.key} has no reference answers to learn "
                "from; take it out of `objectives`, or take another optimizer."
            )
        if loss == "successes" and not item.higher_is_better:
            raise ConfigError(
                f"`optimizer.loss` is successes, but of {item.key} a lower value is better, so no "
                "answer is right; take a metric like exact_match, or set `loss` to reference."
            )
        for task in harness.info.leaves(item.task):
            is_generated = harness.info.tasks[task].kind == "generate_until"
            if loss == "reference" or (loss == "successes" and not is_generated):
                harness.check_references(task, documents.get(task, ()))
    learned = dict.fromkeys(item.task for item in tasks.info.of_tasks(objectives))
    written = [task for task in learned if tasks.info.tasks[task].kind == "generate_until"]
    for name in config.optimizer.forms:
        if name != ANY and name not in written:
            raise ConfigError(
                f"`optimizer.form` names {name!r}, which is no task that generates answers; "
                f"allowed are {', '.join(written) or 'none, so remove it'}."
                f"{did_you_mean(name, written)}"
            )
    if loss == "successes" and config.evaluation.think_end_token is not None:
        raise ConfigError(
            "`optimizer.loss` is successes, but with `evaluation.think_end_token` answers are "
            "kept without their reasoning; remove one of the two keys."
        )


def has_slope(space: Space, config: SearchConfig) -> bool:
    """Whether a descent moves a gene: a number that does more than to select something."""
    wanted, smooth = config.space, {PRIORITY: False}
    for name in wanted.methods if isinstance(wanted, ParametersConfig) else ():
        for knob in get_method(name).knobs:
            smooth[knob.name] = smooth.get(knob.name, False) or knob.is_smooth
    return any(
        gene.kind == "real" and not gene.switch and smooth.get(gene.name.rpartition(".")[2], True)
        for gene in space.genes
    )


def make_descents(checked: CheckedSearch, count: int) -> GradientStrategy:
    """Return the strategy of so many descents at once."""
    config, wanted = checked.config, checked.config.optimizer
    info, baselines = checked.evaluator.tasks_of("search").info, checked.space.baselines()
    objectives = list(info.of_tasks(checked.objectives))
    documents = {item.task: checked.splits["search"][item.task] for item in objectives}
    lessons = Lessons(
        wanted.loss or "reference",
        documents,
        config.seed,
        objectives,
        {task for task in documents if info.tasks[task].kind == "generate_until"},
        {name: recipe for name, recipe in baselines.items() if name in config.parents},
    )
    return GradientStrategy(
        checked.space,
        lessons,
        checked.ranking.ordered,
        lambda scores: violation(checked.constraints, scores),
        steps=wanted.steps or STEPS,
        batch=wanted.batch or BATCH,
        rate=wanted.rate or 0.03,
        descents=count,
        weighed=len(checked.objectives) if config.mode == "pareto" else 0,
        forms={task: Form(**form.model_dump()) for task, form in wanted.forms.items()},
        seed=config.seed,
    )
