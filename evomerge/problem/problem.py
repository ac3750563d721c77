"""A search after all checks: the `Problem`, its record, and loading its models as they are."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from evomerge.compat.blas import instruction_variables, linear_algebra
from evomerge.config.record import GeneRange, Record
from evomerge.config.schema import SearchConfig
from evomerge.device import LIMITS, choose_device, choose_threads, is_slow, processor
from evomerge.errors import SearchError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.objectives import kinds_of, load, needed_parts
from evomerge.evaluation.tasks.objective import Merges
from evomerge.merging.tokenizers.plan import GENERATION, TokenizerPlan, plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import has_tokenizer
from evomerge.problem.tasks import check_tasks, task_digests, task_facts
from evomerge.recipe import Recipe
from evomerge.run.history import Candidate
from evomerge.run.ranking import Ranking, make_ranking
from evomerge.scores import Constraint, Documents, Objective, Split
from evomerge.space.protocol import Gene, Genome, Space
from evomerge.trust.code import NOTHING, Permissions

if TYPE_CHECKING:
    from evomerge.merging.architecture.loading import Placement


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
    also: tuple[Objective, ...] = ()  # what is scored on test documents besides
    fewer_documents: str = ""  # on which documents a candidate is scored, and why
    loaded: Evaluator | None = field(default=None, compare=False, repr=False)
    start: tuple[Genome, ...] = ()  # what the search tries first
    unlike_merges: tuple[str, ...] = ()  # parents that differ beside their weights
    allowed: Permissions = NOTHING
    record: Record | None = None  # of the run, if there is one

    @property
    def tokenizer_giver(self) -> str:
        """The parent that tokenizer and chat template of the merges come from."""
        name = self.config.tokenizer
        return name if name in self.checkpoints else self.host

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


PACKAGES = ("evomerge", "torch", "transformers", "numba", "numpy")
"""Packages whose versions may change the bits of a model, whatever the search is."""

_SEEN = {*LIMITS, "ATEN_CPU_CAPABILITY", "OPENBLAS_CORETYPE"}
"""Environment variables whose effect is in `processor` or `linear_algebra` of a manifest."""


def record_of(problem: Problem, folder: str = "") -> Record:
    """Return the record of a problem; `folder` is where relative paths in its file start from."""
    config = problem.config
    full_names = {
        key: [
            section.model_copy(update={"metric": measured.metric})
            for section, measured in zip(getattr(config, key), getattr(problem, key), strict=True)
        ]
        for key in ("objectives", "constraints")
    }
    named = zip(config.evaluation.also, problem.also, strict=True)
    also = [section.model_copy(update={"metric": each.metric}) for section, each in named]
    return Record(
        folder=folder,
        config=config.model_copy(update=full_names).with_values("evaluation", also=also),
        versions=installed_versions(config),
        processor=processor(),
        linear_algebra=linear_algebra(),
        instructions=instruction_variables(),
        parents={name: parent.fingerprint for name, parent in problem.checkpoints.items()},
        unlike_merges=list(problem.unlike_merges),
        in_fp8=[name for name, parent in problem.checkpoints.items() if parent.is_in_fp8],
        documents={
            split: {task: list(ids) for task, ids in documents.items()}
            for split, documents in problem.splits.items()
        },
        tasks=task_digests(problem.evaluator, problem.splits),
        **task_facts(config, problem.evaluator),
        sees=any(objective.needed_parts() for objective in problem.evaluator.every),
        fewer_documents=problem.fewer_documents,
        genes=[gene.name for gene in problem.space.genes],
        gene_ranges=_ranges(problem.space.genes),
        start=[list(genome) for genome in problem.start],
        allow_code=problem.allowed.allow_code,
        trust_code=problem.allowed.trust_code,
        lower_is_better=[
            each.key for each in (*problem.objectives, *problem.also) if not each.higher_is_better
        ],
    )


def _ranges(genes: Sequence[Gene]) -> list[GeneRange]:
    names: dict[tuple[Any, ...], list[str]] = {}
    for gene in genes:
        bounds = (gene.kind, float(gene.low), float(gene.high), gene.choices)
        names.setdefault(bounds, []).append(gene.name)
    return [
        GeneRange(genes=alike, kind=kind, low=low, high=high, choices=list(choices))
        for (kind, low, high, choices), alike in names.items()
    ]


def installed_versions(config: SearchConfig) -> dict[str, str]:
    """Return the installed versions of what a search uses, `none` for what is not installed."""

    packages = [*PACKAGES, *config.optimizer.packages]
    packages += [name for kind in kinds_of(config) for name in kind.packages]
    versions = {"python": platform.python_version()} | {n: package_version(n) for n in packages}
    return {**versions, **config.evaluation.engine.versions()}


def changes_since(record: Record) -> Iterator[str]:
    """Yield a warning if a run goes on with other versions or libraries, or on another processor.

    What the manifest of an older run does not name is not compared.
    """
    versions, here = installed_versions(record.config), processor()
    changed = [
        f"{name} {then} (now {now})"
        for name, then in record.versions.items()
        if (now := versions.get(name) or package_version(name)) != then
    ]
    if record.processor not in ("", here):
        changed.append(f"another kind of processor, {record.processor} (now {here})")
    libraries = linear_algebra()
    changed += [
        f"{then} in {package} (now {libraries[package]})"
        for package, then in record.linear_algebra.items()
        if libraries.get(package, then) != then
    ]
    if record.instructions is not None:
        variables = instruction_variables()
        changed += [
            f"{name} {record.instructions.get(name, 'unset')} (now {variables.get(name, 'unset')})"
            for name in sorted({*record.instructions, *variables} - _SEEN)
            if record.instructions.get(name) != variables.get(name)
        ]
    if changed:
        yield (
            f"The run began with {', '.join(changed)}. Scores are as right here, but their last "
            "digits and the course of the search may differ; for the same search, go on with these."
        )


def package_version(package: str) -> str:
    """Return the version of a package, or `none` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def place(config: SearchConfig) -> Placement:
    """Return the devices of a model and its attention; `ConfigError`: there is no such device."""
    from evomerge.merging.architecture.loading import Placement

    section = config.evaluation
    attention = None if section.attention == "auto" else section.attention
    spread, is_float32 = section.device_map == "auto", section.float32 is True
    return Placement(choose_device(section.device), spread, attention, is_float32)


def resolve_float32(config: SearchConfig) -> SearchConfig:
    """Return the search file with `evaluation.float32` set, if it is `auto`."""
    section = config.evaluation
    if section.float32 != "auto":
        return config
    suits = (
        config.dtype != "float32"
        and not section.engine.is_separate
        and not config.is_study  # the models of a study are a program's, in their `dtype`
        and config.executor.ray.address is None  # workers are on other machines
        and choose_device(section.device) == "cpu"
        and is_slow(config.dtype)
    )
    return config.with_values("evaluation", float32=suits)


def threads_of(config: SearchConfig, checkpoint: Checkpoint, cores: int | None = None) -> int:
    """Return the number of CPU threads that models of a parent's size are scored with.

    `cores` is the largest number to choose; None: all that torch would use.
    """
    threads = config.evaluation.threads
    return choose_threads(checkpoint.parameters, cores) if threads == "auto" else threads


def serves_paths(config: SearchConfig) -> bool:
    """Whether an engine generates the texts of paths, which may differ in depth."""
    return config.evaluation.engine.is_separate and config.space.is_path


def load_parent(problem: Problem, reference: str) -> tuple[Any, Any]:
    """Return model and tokenizer of a parent as itself.

    A tokenizer or chat template that it lacks is that of the merges.
    """
    from evomerge.merging.backend import tokenizer, tokenizer_of

    stored = problem.checkpoints[reference].as_stored
    model, own = _load(problem.config, stored), None
    if has_tokenizer(stored):
        own = tokenizer_of(stored)
        if own.chat_template is not None:
            return model, own
    lent = tokenizer(problem.checkpoints, next(iter(problem.space.baselines().values())))
    if own is None:
        return model, lent
    own.chat_template = lent.chat_template
    return model, own


def load_single(config: SearchConfig, checkpoint: Checkpoint) -> tuple[Any, Any]:
    """Return a model with its own config and dtype, and its own tokenizer.

    `config` has the dtype of a model with an adapter.

    CheckpointError: the model or its tokenizer cannot be loaded.
    """
    from evomerge.merging.backend import tokenizer_of

    return _load(config, checkpoint.as_stored), tokenizer_of(checkpoint.as_stored)


def _load(config: SearchConfig, stored: Checkpoint) -> Any:
    from evomerge.merging.backend import load

    is_causal = any(kind.writes for kind in kinds_of(config))
    return load(stored, place(config), config.dtype, causal=is_causal, parts=needed_parts(config))
