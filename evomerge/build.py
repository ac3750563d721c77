"""The composition root: a search file becomes checkpoints, space, tasks, optimizer, worker.

`prepare` does everything that can be known without compute and raises the first mistake; what it
returns can start a search, continue one, export a candidate or score any model.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.checkpoint import Checkpoint
from evomerge.confidence import Estimate, interval
from evomerge.config import SearchConfig, parse
from evomerge.errors import CheckpointError, ConfigError, RunFolderError, did_you_mean
from evomerge.evaluate.device import choose_device, choose_threads
from evomerge.fit import check_fit
from evomerge.lineage import PREFIX, open_model
from evomerge.merge.rename import matched
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event, Journal
from evomerge.saving import check_saving, make_fidelity, settle_racing
from evomerge.scores import Objective, Scores, Split
from evomerge.space.genes import Space
from evomerge.spaces import host_of, make_space
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
    from evomerge.evaluate.fidelity import Fidelity
    from evomerge.execute.protocol import Executor
    from evomerge.merge.placement import Placement
    from evomerge.optimize.protocol import Optimizer
    from evomerge.recipe import Recipe
    from evomerge.worker import Worker

log = logging.getLogger(__name__)

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
            fidelity=self.fidelity,
            subset=int(search.documents) if search.order == "rotating" else None,
            seed=self.config.seed,
        )

    @property
    def fidelity(self) -> Fidelity | None:
        """How many documents a candidate is scored on, None where it is all of them."""
        return make_fidelity(self.config)

    @property
    def together(self) -> bool:
        """Whether a generation's candidates are scored together."""
        wanted, space = self.config.executor.together, self.config.space
        plain = space.kind == "dataflow" and isinstance(space.scales, float)
        plain = plain and self.config.evaluation.saving is None
        return plain if wanted is None else wanted

    def executor(self) -> Executor:
        """Return what builds and scores candidates."""
        from evomerge.execute.inline import InlineExecutor
        from evomerge.execute.together import TogetherExecutor

        worker = self.worker()
        if not self.together:
            return InlineExecutor(worker)
        from evomerge.together import forks, run_together

        return TogetherExecutor(partial(run_together, worker, forks=forks()))

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
        from evomerge.search import Plan, Saving, Search

        with run.writing(), Journal(run.journal_path) as journal, _logging(run):
            if raised:
                journal.append({"event": "budget", **raised})
            budget = self.config.budget.model_dump() | History(journal.events).budget
            optimizer, fidelity = self.optimizer(), self.fidelity
            plan = Plan(
                **budget,
                population=optimizer.population,
                finalists=self.config.evaluation.validation.finalists,
                saving=None if fidelity is None else Saving(fidelity.recent, fidelity.whole),
                rotating=self.config.evaluation.search.order == "rotating",
                together=self.together,
            )
            executor = self.executor()
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
        from evomerge.search import recipe_of

        return recipe_of(candidate, self.space)

    def export(
        self, run: RunFolder, out: Path, which: str, dtype: str | None, shard_size: str
    ) -> int:
        """Write a candidate of a run as a Hugging Face checkpoint and return its number.

        Raises:
            InputError: no such candidate, the folder exists, the disk is too small.
        """
        from evomerge.interop import to_mergekit
        from evomerge.merge.assemble import write
        from evomerge.report.card import model_card

        history = History(run.events())
        candidate = _choose(history, which, run)
        recipe = self.recipe(candidate)
        if dtype is not None:
            recipe = replace(recipe, dtype=dtype)
        texts = {
            "README.md": model_card(self.config, history, candidate, recipe, self.objectives),
            "evomerge_recipe.yaml": recipe.to_yaml(),
        }
        mergekit = to_mergekit(recipe, self.checkpoints)
        if mergekit is not None:
            texts["mergekit_config.yml"] = mergekit
        write(recipe, self.checkpoints, out, shard_size=shard_size, texts=texts)
        return candidate.number

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

    def facts(self) -> dict[str, Any]:
        """Return what `evomerge validate` prints: sizes, dimension, documents, memory, disk."""
        host = self.checkpoints[self.host]
        genes = list(self.space.genes)
        width = {"float32": 4}.get(self.config.dtype, 2)
        weights = host.parameters * width
        return {
            "parents": {name: _size(item.nbytes) for name, item in self.checkpoints.items()},
            "host": self.host,
            "architecture": (host.config.get("architectures") or ["unknown"])[0],
            "layers": len(host.main),
            "space": self.config.space.kind,
            "dimension": len(genes),
            "population": self.optimizer().population,
            "candidates": self.config.budget.candidates,
            "documents": {
                split: sum(len(ids) for ids in documents.values())
                for split, documents in self.splits.items()
            },
            "sources": {
                split: list(dict.fromkeys(of_split.values()))
                for split, of_split in sources(self.config, self.evaluator).items()
            },
            "fewer_documents": self.config.evaluation.saving or "off",
            "objectives": [
                f"{o.key} (weight {o.weight:g}, {'higher' if o.higher_is_better else 'lower'} is "
                "better)"
                for o in self.objectives
            ],
            "resident_model": _size(weights),
            "export": _size(weights),
        }

    def warnings(self, allow_benchmarks: bool) -> list[str]:
        """Return what a person should know before starting."""
        from evomerge.evaluate.benchmarks import benchmark_warning

        notes = self.tokenizer_notes()
        if allow_benchmarks:
            return notes
        facts = self.evaluator.asked("search").facts
        leaves = {task for item in self.objectives for task in facts.leaves(item.task)}
        found = (benchmark_warning(facts.tasks[task]) for task in sorted(leaves))
        return notes + [warning for warning in found if warning]

    def tokenizer_notes(self) -> list[str]:
        """Return what was decided where the parents' tokenizers disagree.

        Raises:
            InputError: a tokenizer or adapter is damaged, or does not fit.
        """
        from evomerge.merge.adapters import adapter_patches
        from evomerge.merge.tokenizer import plan_tokenizer

        adapter_patches(self.checkpoints)
        recipes = list(self.space.landmarks().values())
        if self.config.tokenizer != "base":
            recipes = recipes[:1]  # all candidates have one vocabulary
        notes = [
            note for recipe in recipes for note in plan_tokenizer(recipe, self.checkpoints).notes
        ]
        return list(dict.fromkeys(notes))

    def estimates(self, scores: Scores) -> dict[str, Estimate]:
        """Return every objective's score with its interval."""
        return {
            item.key: interval(scores.values.get(item.key, ()), scores.aggregates[item.key])
            for item in self.objectives
        }


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
    _check_supported(config)
    if config.frozen is not None:
        return _frozen_setup(config, relative_to)
    config, checkpoints, host = _open_parents(config, relative_to, allow_pickle=allow_pickle)
    space = make_space(config, checkpoints)
    evaluator = load_tasks(config)
    objectives = find_objectives(config, evaluator)
    splits = find_splits(config, evaluator)
    config = settle_racing(config, objectives, evaluator.facts, splits["search"])
    check_saving(config, objectives, evaluator.facts, splits["search"])
    setup = Setup(config, checkpoints, host, space, objectives, splits, allow_pickle)
    setup.__dict__["evaluator"] = evaluator
    setup.placement(checkpoints[host])
    setup.optimizer()
    setup.tokenizer_notes()
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
    config, checkpoints, host = _open_parents(config, relative_to, allow_pickle=allow_pickle)
    space = make_space(config, checkpoints)
    objectives, splits = frozen_objectives(config), frozen_splits(config)
    return Setup(config, checkpoints, host, space, objectives, splits, allow_pickle)


def best_recipe(run: RunFolder) -> tuple[Recipe, Mapping[str, Checkpoint]]:
    """Return the recipe of a run's best candidate, and the parents it is made of.

    Raises:
        RunFolderError: the run has no scored candidate yet.
    """
    setup = reopen(run)
    return setup.recipe(_choose(History(run.events()), "best", run)), setup.checkpoints


def _check_supported(config: SearchConfig) -> None:
    if config.mode == "pareto":
        raise ConfigError("`mode` is 'pareto', which this version cannot search; use 'weighted'.")
    if config.executor.kind != "inline":
        raise ConfigError(
            f"`executor.kind` is {config.executor.kind!r}, which this version does not have; use "
            "'inline'."
        )
    if config.executor.workers != 1:
        raise ConfigError(
            f"`executor.workers` is {config.executor.workers}; the inline executor has exactly 1."
        )
    if config.executor.timeout is not None:
        raise ConfigError(
            "`executor.timeout` needs candidates in processes of their own, which this version "
            "does not have; remove it."
        )


def _open_parents(
    config: SearchConfig, relative_to: Path, *, allow_pickle: bool = False
) -> tuple[SearchConfig, dict[str, Checkpoint], str]:
    config = _anchored(config, relative_to)
    names = dict.fromkeys([*config.parents, *([config.base] if config.base else [])])
    checkpoints = {name: open_model(name, relative_to, allow_pickle=allow_pickle) for name in names}
    host = host_of(config)
    checkpoints = matched(checkpoints, host)
    check_fit(
        checkpoints[host], list(checkpoints.values()), vocabularies=config.tokenizer == "base"
    )
    if config.frozen is not None:
        _check_unchanged(checkpoints, config.frozen.parents)
    return config, checkpoints, host


def _anchored(config: SearchConfig, relative_to: Path) -> SearchConfig:
    """Make references to local folders absolute, so that a run can be resumed from anywhere."""

    def place(path: str) -> str:
        for folder in (relative_to, Path.cwd()):
            found = folder / Path(path).expanduser()
            if found.is_dir():
                return str(found.resolve())
        return path

    def parent(reference: str) -> str:
        if reference.startswith(PREFIX):
            return PREFIX + place(reference.removeprefix(PREFIX))
        model, plus, adapter = reference.partition("+")
        return place(model) + plus + (place(adapter) if adapter else "")

    special = ("base", "union")
    tokenizer = config.tokenizer if config.tokenizer in special else parent(config.tokenizer)
    update: dict[str, Any] = {
        "parents": [parent(item) for item in config.parents],
        "base": None if config.base is None else parent(config.base),
        "tokenizer": tokenizer,
        "evaluation": config.evaluation.model_copy(
            update={"include": [place(item) for item in config.evaluation.include]}
        ),
    }
    space = config.space
    outside = space.outside and space.outside.model_copy(
        update={name: None if value is None else parent(value) for name, value in space.outside}
    )
    host = None if space.host is None else parent(space.host)
    update["space"] = space.model_copy(update={"host": host, "outside": outside})
    return config.model_copy(update=update)


def _check_unchanged(checkpoints: Mapping[str, Checkpoint], known: Mapping[str, str]) -> None:
    for name, fingerprint in known.items():
        if name in checkpoints and checkpoints[name].fingerprint != fingerprint:
            raise CheckpointError(
                f"Parent {name!r} has changed since the run was started; put the old weights back, "
                "or start a new run."
            )


def _choose(history: History, which: str, run: RunFolder) -> Candidate:
    if which == "best":
        best = history.best()
        if best is None:
            raise RunFolderError(f"{run.path} has no scored candidate yet.")
        return best
    if not which.isdigit() or int(which) >= len(history.candidates):
        raise RunFolderError(
            f"--candidate is {which!r}; it must be `best` or a number from 0 to "
            f"{len(history.candidates) - 1}."
        )
    return history.candidates[int(which)]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


@contextmanager
def _logging(run: RunFolder) -> Iterator[None]:
    """Write what the search says into the run's `log.txt` too."""
    handler = logging.FileHandler(run.path / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("evomerge")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
