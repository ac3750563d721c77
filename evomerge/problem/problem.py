"""A search after all checks: its parents, space, objectives and documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig
from evomerge.errors import SearchError
from evomerge.evaluation.objectives import load
from evomerge.merging.tokenizers.plan import GENERATION, TokenizerPlan, plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.problem.tasks import check_tasks
from evomerge.recipe import Recipe
from evomerge.run.history import Candidate
from evomerge.run.ranking import Ranking, make_ranking
from evomerge.scores import Constraint, Documents, Objective, Split
from evomerge.space.protocol import Genome, Space
from evomerge.trust.consent import NOTHING, Permissions

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.tasks.objective import Merges


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A search file after it was resolved: nothing is missing for the search to start."""

    config: SearchConfig  # with absolute paths of local folders
    checkpoints: Mapping[str, Checkpoint]  # every parent and the base; weights are not loaded
    host: str  # reference of the parent that gives config and tokenizer
    space: Space
    objectives: tuple[Objective, ...]  # with full metric names, as constraints
    splits: Mapping[Split, Documents]
    constraints: tuple[Constraint, ...] = ()
    fewer_documents: str = ""  # on which documents a candidate is scored, and why
    loaded: Evaluator | None = field(default=None, compare=False, repr=False)
    start: tuple[Genome, ...] = ()  # what the search tries first
    unlike_merges: tuple[str, ...] = ()  # parents that differ beside their weights
    allowed: Permissions = NOTHING
    record: Record | None = None  # of the run, if there is one

    @property
    def tokenizer_giver(self) -> str:
        """The parent that tokenizer and chat template of the merges come from."""
        wanted = self.config.tokenizer
        return wanted if wanted in self.checkpoints else self.host

    @cached_property
    def ranking(self) -> Ranking:
        """What compares the candidates of this search."""
        return make_ranking(self.config.mode, self.objectives, self.constraints)

    @cached_property
    def tokenizer_plan(self) -> TokenizerPlan:
        """The tokenizer of the merges."""

        return plan_tokenizer(next(iter(self.space.baselines().values())), self.checkpoints)

    @cached_property
    def merges(self) -> Merges:
        """What objectives are told of the models that they will measure."""
        from evomerge.evaluation.tasks.objective import Merges
        from evomerge.merging.architecture.loading import generation_config
        from evomerge.merging.backend import tokenizer

        config, host = self.config, self.checkpoints[self.host]
        text = self.tokenizer_plan.files.get(GENERATION, host.generation)
        return Merges(
            host=host,
            parents=tuple(self.checkpoints.values()),
            tokenizer=tokenizer(self.checkpoints, next(iter(self.space.baselines().values()))),
            vocabulary=config.tokenizer,
            generation=lambda: generation_config(host.config, text),
            are_paths=config.space.is_path,
            descends=config.optimizer.needs_gradients,
        )

    @cached_property
    def evaluator(self) -> Evaluator:
        """The evaluator with the objectives' tasks, loaded at the first use.
        ConfigError: a task is missing, or its documents are not those that the run has used.
        """
        if self.loaded is not None:
            return self.loaded
        evaluator = load(self.config, self.allowed)
        if self.record is not None:
            check_tasks(self.record, evaluator)
        return evaluator


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
