"""The composition root: a search file becomes checkpoints, space, tasks, optimizer, worker.

`prepare` does everything that can be known without compute and raises the first mistake; what it
returns can start a search, continue one or score any model.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint import Checkpoint
from evomerge.config import SearchConfig, parse
from evomerge.errors import ConfigError, RunFolderError, did_you_mean
from evomerge.evaluate.device import choose_device, choose_threads
from evomerge.executors import check_executor, is_together, make_executor
from evomerge.jobs import Saving, recipe_of
from evomerge.lineage import open_model
from evomerge.parents import open_parents, tokenizer_notes
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event, Journal
from evomerge.saving import check_saving, make_fidelity, settle_racing
from evomerge.scores import Objective, Scores, Split
from evomerge.space.genes import Space
from evomerge.spaces import make_space
from evomerge.tasks import (
    SPLITS,
    Documents,
    check_sources,
    find_objectives,
    find_splits,
    frozen_objectives,
    frozen_splits,
    load_tasks,
    sources,
)

if TYPE_CHECKING:
    from evomerge.evaluate.evaluator import Evaluator
    from evomerge.merge.placement import Placement
    from evomerge.optimize.protocol import Optimizer
    from evomerge.recipe import Recipe
    from evomerge.worker import Worker

PACKAGES = ("evomerge", "torch", "transformers", "lm_eval", "nevergrad", "numpy")


@dataclass(frozen=True)
class Setup:
    """A checked search, ready to run.

    Attributes:
        config: the search file, references to local folders made absolute.
        checkpoints: every parent and the base by reference, opened but not loaded.
        host: reference of the parent that gives config and tokenizer.
        space: what is searched.
        objectives: what is maximised, metric names completed and directions known.
        splits: the documents of every split, by task.
        allow_pickle: parents' weights may be pickles.
    """

    config: SearchConfig
    checkpoints: Mapping[str, Checkpoint]
    host: str
    space: Space
    objectives: tuple[Objective, ...]
    splits: Mapping[Split, Documents]
    allow_pickle: bool = False

    @cached_property
    def evaluator(self) -> Evaluator:
        """The objectives' tasks, loaded when they are first needed.

        Raises:
            ConfigError: a task is gone, or its documents are not those that the run has used.
        """
        evaluator = load_tasks(self.config)
        check_sources(self.config, evaluator)
        return evaluator

    def optimizer(self) -> Optimizer:
        """Return a new optimizer of the run's seed.

        Raises:
            ConfigError: an option does not suit the optimizer.
        """
        from evomerge.optimize import create

        wanted = self.config.optimizer
        population = None if wanted.population == "auto" else wanted.population
        genes, budget = list(self.space.genes), self.config.budget.candidates
        return create(wanted.name, genes, self.config.seed, population, wanted.sigma, budget)

    def placement(self, model: Checkpoint) -> Placement:
        """Return where a model of this size is run, and with which attention."""
        from evomerge.merge.assemble import bytes_of
        from evomerge.merge.placement import Placement

        wanted = self.config.evaluation
        device = choose_device(wanted.device)
        choose_threads(model.parameters, device)
        memory = None
        if wanted.max_memory is not None:
            memory = {
                number: bytes_of(size, f"evaluation.max_memory.{number}")
                for number, size in wanted.max_memory.items()
            }
        attention = None if wanted.attention == "auto" else wanted.attention
        return Placement(device, wanted.device_map, memory, attention)

    def worker(self) -> Worker:
        """Load the tokenizer, build the resident model, prepare the documents."""
        from evomerge.merge.assemble import resident, tokenizer
        from evomerge.worker import Worker

        first = next(iter(self.space.landmarks().values()))
        place = self.placement(self.checkpoints[self.host])
        search = self.config.evaluation.search
        return Worker(
            resident(self.checkpoints, first, place, routed=self.config.space.kind != "parameters"),
            self.evaluator,
            tokenizer(self.checkpoints, first),
            self.splits,
            first,
            objectives=self.objectives,
            fidelity=make_fidelity(self.config),
            subset=int(search.documents) if search.order == "rotating" else None,
            seed=self.config.seed,
            stratify=self.config.evaluation.stratify,
        )

    def search(
        self,
        run: RunFolder,
        raised: Mapping[str, float],
        observe: Callable[[History, Event], None],
    ) -> Candidate:
        """Start or continue the search of a run folder and return the winner.

        Args:
            run: the folder.
            raised: new bounds of the budget (`candidates`, `hours`), kept in the journal.
            observe: called after every event.

        Raises:
            RunFolderError: another process writes the run.
            SearchError: no candidate could be scored.
        """
        from evomerge.search import Plan, Search

        with run.writing(), Journal(run.journal_path) as journal, run.logged():
            if raised:
                journal.append({"event": "budget", **raised})
            budget = self.config.budget.model_dump() | History(journal.events).budget
            optimizer, fidelity = self.optimizer(), make_fidelity(self.config)
            plan = Plan(
                **budget,
                population=optimizer.population,
                finalists=self.config.evaluation.validation.finalists,
                saving=None if fidelity is None else Saving(fidelity.recent, fidelity.whole),
                rotating=self.config.evaluation.search.order == "rotating",
                together=is_together(self.config),
            )
            executor = make_executor(self.config, self.worker())
            try:
                return Search(
                    run,
                    journal,
                    self.space,
                    optimizer,
                    executor,
                    self.objectives,
                    plan,
                    lambda candidate, recipe: self.publish(run, recipe),
                    observe,
                ).go()
            finally:
                executor.close()

    def publish(self, run: RunFolder, recipe: Recipe) -> None:
        """Write `best.yaml`, and `best.mergekit.yaml` where mergekit can express the recipe."""
        from evomerge.interop import to_mergekit

        run.write("best.yaml", recipe.to_yaml())
        text = to_mergekit(recipe, self.checkpoints)
        if text is not None:
            run.write("best.mergekit.yaml", text)
        else:
            (run.path / "best.mergekit.yaml").unlink(missing_ok=True)

    def recipe(self, candidate: Candidate) -> Recipe:
        """Return the recipe of a candidate of this search.

        Raises:
            SearchError: it is not the recipe that was journaled.
        """
        return recipe_of(candidate, self.space)

    def evaluate(self, model: str, split: str) -> Scores:
        """Score any model on this search's documents of a split.

        Raises:
            InputError: there is no such split or model.
        """
        from evomerge.merge.assemble import load, tokenizer_of

        chosen = next((known for known in SPLITS if known == split), None)
        if chosen is None:
            raise ConfigError(
                f"--split is {split!r}; allowed are {', '.join(SPLITS)}."
                f"{did_you_mean(split, SPLITS)}"
            )
        checkpoint = open_model(model, Path.cwd())
        loaded = load(checkpoint, self.placement(checkpoint))
        evaluator = self.evaluator
        evaluator.prepare(loaded, tokenizer_of(checkpoint), {chosen: self.splits[chosen]})
        return evaluator.score(loaded, chosen)

    def frozen(self) -> dict[str, Any]:
        """Return the search file that a run keeps: resolved, with all that must not change."""
        plain = self.config.model_dump(mode="json", exclude={"frozen"})
        for item, objective in zip(plain["objectives"], self.objectives, strict=True):
            item["metric"] = objective.metric
        plain["frozen"] = {
            "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
            "parents": {name: item.fingerprint for name, item in self.checkpoints.items()},
            "documents": {
                split: {task: list(ids) for task, ids in documents.items()}
                for split, documents in self.splits.items()
            },
            "sources": sources(self.config, self.evaluator),
            "genes": [gene.name for gene in self.space.genes],
            "allow_pickle": self.allow_pickle,
            "lower_is_better": [o.key for o in self.objectives if not o.higher_is_better],
        }
        return plain


def prepare(config: SearchConfig, relative_to: Path, *, allow_pickle: bool = False) -> Setup:
    """Check a search file against the world: parents, shapes, tasks, metrics, documents.

    Args:
        config: a parsed search file, or a run's frozen one.
        relative_to: folder that relative paths start from; where nothing is there, the working
            folder is tried.
        allow_pickle: accept parents whose weights are pickles.

    Raises:
        InputError: the first mistake.
    """
    if config.mode == "pareto":
        raise ConfigError("`mode` is 'pareto', which this version cannot search; use 'weighted'.")
    check_executor(config)
    if config.frozen is not None:
        return _frozen_setup(config, relative_to)
    config, checkpoints, host = open_parents(config, relative_to, allow_pickle=allow_pickle)
    space = make_space(config, checkpoints)
    evaluator = load_tasks(config)
    objectives = find_objectives(config, evaluator)
    splits = find_splits(config, evaluator)
    config = settle_racing(config, objectives, evaluator.facts, splits["search"])
    check_saving(config, objectives, evaluator.facts, splits["search"])
    setup = Setup(config, checkpoints, host, space, objectives, splits, allow_pickle)
    setup.__dict__["evaluator"] = evaluator
    setup.placement(checkpoints[host]).check(checkpoints[host].config, config.dtype)
    setup.optimizer()
    tokenizer_notes(config, space.landmarks().values(), checkpoints)
    return setup


def reopen(run: RunFolder) -> Setup:
    """Return the setup of an existing run, after checking that its parents are unchanged.

    Raises:
        InputError: the frozen search file is damaged, or a parent is gone or has changed.
    """
    config = parse(run.config(), str(run.path / CONFIG))
    if config.frozen is None:
        raise RunFolderError(f"{run.path / CONFIG} was not written by a run: it has no `frozen`.")
    return _frozen_setup(config, run.path)


def _frozen_setup(config: SearchConfig, relative_to: Path) -> Setup:
    assert config.frozen is not None
    allow_pickle = config.frozen.allow_pickle
    config, checkpoints, host = open_parents(config, relative_to, allow_pickle=allow_pickle)
    space = make_space(config, checkpoints)
    objectives, splits = frozen_objectives(config), frozen_splits(config)
    return Setup(config, checkpoints, host, space, objectives, splits, allow_pickle)
