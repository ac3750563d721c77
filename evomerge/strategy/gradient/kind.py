"""Gradient descent as it is named in the section `optimizer` of a search file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from evomerge.config.fields import Section
from evomerge.config.optimizer import OptimizerConfig
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, InputError, among
from evomerge.evaluation.inference.rows import ANY, Form
from evomerge.scores import TOKENS
from evomerge.space.knobs import is_smooth
from evomerge.space.protocol import Space
from evomerge.strategy.gradient.descent import BATCH, RATE, SEGMENT, STEPS
from evomerge.strategy.gradient.lessons import Lessons

if TYPE_CHECKING:
    from evomerge.problem.problem import Problem
    from evomerge.strategy.gradient.descents import GradientStrategy

_ENOUGH_GENES = 8  # the fewest with which a tenth of the candidates was enough


class FormConfig(Section):
    """How reference answers are written for the loss of descents."""

    delimiter: bool = True
    """whether the task's `target_delimiter`, mostly a blank, comes before it"""
    end: Literal["token", "stop", "none"] = "token"
    """what comes after it: the end token, the task's first stop string, or nothing"""


def _forms_for(value: Any) -> str:
    """Return whether a value is the form of all tasks, or has one for each of some tasks."""
    is_by_task = isinstance(value, dict) and value
    forms = (dict, FormConfig)
    return "tasks" if is_by_task and all(isinstance(f, forms) for f in value.values()) else "all"


FormsConfig: TypeAlias = Annotated[
    Annotated[FormConfig, Tag("all")] | Annotated[dict[str, FormConfig], Tag("tasks")],
    Discriminator(_forms_for),
]


class Gradient(OptimizerConfig):
    """Gradient descent on the genes, by a loss on the search documents."""

    name: Literal["gradient"]
    """gradient: descents against the gradient of a loss"""
    steps: int | None = Field(None, ge=1, le=10000)
    """steps of a descent; null: 60"""
    batch: int | None = Field(None, ge=1, le=10000)
    """documents of a step; null: 16"""
    rate: float | None = Field(None, gt=0, le=1)
    """length of the first steps, as a share of a gene's range; null: 0.03"""

    loss: Literal["reference", "successes", "experts"] | None = None
    """what a descent learns; reference: the tasks' reference answers; successes: answers of
    parents and candidates that scored right; experts: what the best parent on each task finds
    likely; null: reference"""

    form: FormsConfig | None = None
    """how reference answers are written, of all tasks or of some (name: form); null:
    as the parents prefer, for each task"""

    about = "gradient descent on weights and other numbers, by answers or by the experts"
    steps_each = SEGMENT
    needs_gradients = True
    search_rules = (
        (
            lambda config: config.executor.order == "arrival",
            "has `optimizer.name` gradient, but `executor.order` is arrival; set it to generation",
        ),
        (
            lambda config: config.optimizer.keeps_right and config.evaluation.think_end_token,
            "has `optimizer.loss` successes, but with `evaluation.think_end_token` answers are "
            "kept without their reasoning; remove one of the two keys",
        ),
    )

    @property
    def papers(self) -> tuple[str, ...]:
        """The publications of the algorithm."""
        return ("Kingma and Ba 2015, arXiv 1412.6980", "Yang et al. 2024, arXiv 2310.02575")

    @property
    def forms(self) -> dict[str, FormConfig]:
        """The forms of answers that are given, by task; `*` stands for all of them."""
        return {ANY: self.form} if isinstance(self.form, FormConfig) else self.form or {}

    @property
    def keeps_right(self) -> bool:
        """Whether descents learn answers that scored right."""
        return self.loss == "successes"

    @property
    def needs_same_documents(self) -> str:
        """Why all candidates are scored on the same documents."""
        return "descents learn from all search documents"

    def generation(self, config: SearchConfig, space: Space) -> int:
        """Return the number of descents at once."""
        if config.mode == "pareto" and self.size is None:
            return len(config.objectives) + 1  # one between the objectives, and one for each
        return self.size or 1

    def check(self, problem: Problem) -> None:
        """Check that a problem has genes with a gradient, and documents with a loss.

        ConfigError: it has not.
        """
        if not has_gradient(problem.space, problem.config):
            raise ConfigError(
                "`optimizer.name` is gradient, but no gene of this space is a number with a "
                "gradient; search weights or another number, or take another optimizer."
            )
        tasks, documents = problem.evaluator.tasks_of("search"), problem.splits["search"]
        for measured in problem.objectives:
            objective = None if measured.is_exact else tasks.of(measured.task)
            if objective is None or not objective.has_answers or measured.metric == TOKENS:
                raise ConfigError(
                    f"`optimizer.name` is gradient, but {measured.key} has no reference answers to "
                    "learn from; take it out of `objectives`, or take another optimizer."
                )
            if self.keeps_right and not measured.higher_is_better:
                raise ConfigError(
                    f"`optimizer.loss` is successes, but of {measured.key} a lower value is "
                    "better, so no answer is right; take a metric like exact_match, or set `loss` "
                    "to reference."
                )
            for task in tasks.info.leaves(measured.task):
                is_copied = self.keeps_right and tasks.info.tasks[task].generates
                if self.loss != "experts" and not is_copied:
                    objective.check_answers(task, documents.get(task, ()))
        learned = dict.fromkeys(leaf.task for leaf in tasks.info.of_tasks(problem.objectives))
        generating = [task for task in learned if tasks.info.tasks[task].generates]
        for name in self.forms:
            if name != ANY and name not in generating:
                raise ConfigError(
                    f"`optimizer.form` names {name!r}, which is no task that generates answers; "
                    f"allowed are {among(name, generating)}"
                )

    @classmethod
    def instead(cls, problem: Problem) -> Problem | None:
        """Return the same search by gradients with a tenth of the candidates, if that is enough.

        So it was where right answers are whole references and there are `_ENOUGH_GENES` or more
        (docs/gradients.md). None: it is another search, or one that suits no descents.
        """
        from evomerge.problem.memory import check_fit

        config, tasks = problem.config, problem.evaluator.tasks_of("search")
        is_other = config.optimizer.needs_gradients or config.mode != "weighted"
        numbers = [gene.kind == "real" and not gene.switch for gene in problem.space.genes]
        is_other |= len(numbers) < _ENOUGH_GENES or not all(numbers) or bool(config.constraints)
        if is_other or any(measured.is_exact for measured in problem.objectives):
            return None
        objectives = tasks.info.of_tasks(problem.objectives)
        if not all(tasks.of(leaf.task).learns_whole(leaf.task, leaf.metric) for leaf in objectives):
            return None
        least = len(problem.space.baselines()) + STEPS // SEGMENT
        candidates = max(least, (config.budget.candidates or 0) // 10)
        config = config.model_copy(update={"optimizer": cls(name="gradient")})
        config = config.with_values("budget", candidates=candidates, hours=None)
        config = config.with_values("executor", order="generation")
        other = replace(problem, config=config, loaded=problem.evaluator)
        try:
            config.optimizer.check(other)
            problem.evaluator.check(other.merges, {})
            check_fit(other)
        except InputError:
            return None
        return other

    def make(self, problem: Problem) -> GradientStrategy:
        """Return the strategy."""
        from evomerge.strategy.gradient.descents import GradientStrategy

        config, info = problem.config, problem.evaluator.tasks_of("search").info
        objectives = list(info.of_tasks(problem.objectives))
        documents = {leaf.task: problem.splits["search"][leaf.task] for leaf in objectives}
        baselines = problem.space.baselines()
        lessons = Lessons(
            self.loss or "reference",
            documents,
            config.seed,
            objectives=objectives,
            generated={task for task in documents if info.tasks[task].generates},
            parents={name: recipe for name, recipe in baselines.items() if name in config.parents},
        )
        return GradientStrategy(
            problem.space,
            lessons,
            problem.ranking,
            steps=self.steps or STEPS,
            batch=self.batch or BATCH,
            rate=self.rate or RATE,
            generation=self.generation(config, problem.space),
            forms={task: Form(**form.model_dump()) for task, form in self.forms.items()},
            seed=config.seed,
        )


def has_gradient(space: Space, config: SearchConfig) -> bool:
    """Whether a descent moves a gene: a number that does more than to select something."""
    return any(
        gene.kind == "real" and not gene.switch and is_smooth(gene.name, config.space.methods)
        for gene in space.genes
    )
