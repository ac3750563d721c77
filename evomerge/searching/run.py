"""Running the search of a run folder, and scoring a model on a search's documents."""

import logging
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from evomerge.device import use_threads
from evomerge.errors import (
    CheckpointError,
    ConfigError,
    RecipeError,
    RunFolderError,
    SearchError,
    among,
)
from evomerge.execute.devices import device_change
from evomerge.execute.protocol import Executor
from evomerge.mergekit import express
from evomerge.models.references import open_parent
from evomerge.problem.documents import fresh_documents
from evomerge.problem.loading import load_single, threads_of
from evomerge.problem.parents import pinned
from evomerge.problem.parents_as_themselves import (
    base_to_test,
    parent_itself,
    parent_notes,
    recipe_to_write,
)
from evomerge.problem.problem import Problem, recipe_of
from evomerge.problem.record import changes_since
from evomerge.problem.resolve import sample_recipes
from evomerge.recipe import Recipe
from evomerge.run.folder import MANIFEST, MERGEKIT, NOT_IN_MERGEKIT, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.logbook import Follower, Logbook
from evomerge.scores import SPLITS, Scores
from evomerge.searching.loop import Plan, Search
from evomerge.searching.session import Session

log = logging.getLogger(__name__)

READ_IN_SECONDS = 4e9
"""Bytes of weights up to which `evomerge validate` reads them, too."""


def run_search(
    problem: Problem,
    run: RunFolder,
    new_budget: Mapping[str, float],
    followers: Sequence[Follower] = (),
) -> Candidate:
    """Start or continue the search of a run folder and return the winner.

    If the models or tasks are refused before anything was scored, the run folder is removed: the
    search file or a model must change, and then a new search can take the folder.

    `new_budget`: bounds (`candidates`, `hours`, `patience`, `target`) that replace earlier ones.

    InputError: a model or a task is refused, or another process is writing to the run; SearchError:
    no candidate could be scored, or the search cannot go on.
    """
    try:
        return _run_search(problem, run, new_budget, followers)
    except (CheckpointError, ConfigError, RecipeError):
        if not History(run.events()).told:
            run.remove()
        raise
    except OSError as error:
        file = error.filename2 or error.filename or run.path  # the second one is to be replaced
        raise SearchError(
            f"The run {run.path} could not be read or written ({error.strerror or error}: "
            f"{file}); free space, make it writable or move away what is there, then go on with "
            f"`evomerge resume {shlex.quote(str(run.path))}`."
        ) from error
    except SystemExit as error:  # it would end the search as if it were done
        raise SearchError(
            f"Code that the search calls, such as an optimizer, raised SystemExit: {error}; remove "
            f"the cause, then go on with `evomerge resume {shlex.quote(str(run.path))}`."
        ) from error


def _run_search(
    problem: Problem,
    run: RunFolder,
    new_budget: Mapping[str, float],
    followers: Sequence[Follower],
) -> Candidate:
    with run.writing() as journal, run.logged():
        for warning in (
            *changes_since(run.record()),
            device_change(problem.config, run.timings.peak()),
        ):
            if warning is not None:
                log.warning(warning)
        logbook = Logbook(run, journal, followers)
        check_search_file(run, logbook)
        note_budget(problem, logbook, new_budget)
        if not logbook.history.told:
            for line in parent_notes(problem):
                log.info(line)
            check_weights_are_finite(problem)
        executor = partial(problem.config.executor.make, problem, logbook)
        search = make_search(problem, run, logbook, executor)
        try:
            return search.run()
        finally:
            search.session.close()


def check_weights_are_finite(problem: Problem, most: float = math.inf) -> None:
    """Read all weights before the first candidate is scored, not when one of them is merged.

    Args:
        problem: the search.
        most: largest number of bytes of weights that are read; if there are more, none is.

    Raises:
        CheckpointError: a weight is NaN or infinite.
    """
    from evomerge.merging.backend import check_finite

    if sum(checkpoint.nbytes for checkpoint in problem.checkpoints.values()) > most:
        return
    samples = sample_recipes(problem.space).values()
    check_finite(problem.checkpoints, (*problem.space.baselines().values(), *samples))


def note_budget(problem: Problem, logbook: Logbook, bounds: Mapping[str, float]) -> None:
    """Journal the bounds of the budget that differ from those so far."""
    so_far = problem.config.budget.model_dump() | logbook.history.budget
    if changed := {name: bound for name, bound in bounds.items() if so_far[name] != bound}:
        logbook.write({"event": "budget", **changed})


def make_search(
    problem: Problem,
    run: RunFolder,
    logbook: Logbook,
    make_executor: Callable[[], Executor] | None,
) -> Search:
    """Return the search of a run, as its journal says that it has come."""
    config = problem.config
    session = Session(
        logbook=logbook,
        make_executor=make_executor,
        recipe_of=partial(recipe_of, problem.space),
        ranking=problem.ranking,
        fresh=fresh_documents(problem),
        publish=partial(publish, problem, run),
        as_itself=partial(parent_itself, problem),
        bases=base_to_test(problem),
    )
    plan = Plan(
        **(config.budget.model_dump() | logbook.history.budget),
        finalists=config.evaluation.validation.finalists,
        order="arrival" if config.executor.order == "arrival" else "generation",
    )
    return Search(session, partial(config.optimizer.make, problem), problem.space.baselines(), plan)


def check_search_file(run: RunFolder, logbook: Logbook) -> None:
    """Compare a run's manifest with its digest in the journal, or write the digest if it is new.

    RunFolderError: the manifest was changed, and its own digest with it.
    """
    digest = run.digest
    first = next((e["digest"] for e in logbook.events if e.get("event") == "search"), None)
    if first is None:
        logbook.write({"event": "search", "digest": digest})
    elif first != digest:
        raise RunFolderError(
            f"{run.path / MANIFEST} is not the one that this run's journal was written with; put "
            "it back as it was, or start a new run."
        )


def publish(problem: Problem, run: RunFolder, front: Sequence[Candidate], best: Candidate) -> None:
    """Write the best candidate's recipe to `best.yaml` and, for mergekit, `best.mergekit.yaml`.

    If mergekit cannot express the recipe, `best.not-in-mergekit.txt` says why instead. In a search
    for a front, the recipes of its members are `front/NUMBER.yaml`; others are removed there.
    """

    def written(candidate: Candidate) -> tuple[Recipe, Recipe]:
        recipe = recipe_to_write(problem, candidate)
        return recipe, pinned(recipe, problem.checkpoints)

    recipe, with_pins = written(best)
    run.write("best.yaml", with_pins.to_yaml())
    try:
        name, other, text = MERGEKIT, NOT_IN_MERGEKIT, express(recipe, problem.checkpoints)
    except RecipeError as error:
        name, other, text = NOT_IN_MERGEKIT, MERGEKIT, f"{error}\n"
    (run.path / other).unlink(missing_ok=True)
    run.write(name, text)
    if not problem.ranking.has_front:
        return
    folder = run.path / "front"
    folder.mkdir(exist_ok=True)
    members = {f"{item.number}.yaml": item for item in front}
    there = {path.name for path in folder.glob("*.yaml")}
    for name in members.keys() - there:
        run.write(f"front/{name}", written(members[name])[1].to_yaml())
    for name in there - members.keys():
        (folder / name).unlink()


def evaluate(problem: Problem, model: str, split: str, examples: int = 0) -> Scores:
    """Score any model on the documents of a search; InputError: there is no such split or model.

    `examples`: number of documents of each task whose prompts and answers come with the scores.
    """
    from evomerge.evaluation.evaluator import score_single
    from evomerge.evaluation.tasks.objective import Merges

    split_of = next((name for name in SPLITS if name == split), None)
    if split_of is None:
        raise ConfigError(f"split is {split!r}; allowed are {among(split, SPLITS)}")
    checkpoint = open_parent(model, Path.cwd())
    problem.evaluator.check(Merges(host=checkpoint), {})
    return score_single(
        problem.evaluator,
        lambda: load_single(problem.config, checkpoint),
        split_of,
        problem.splits[split_of],
        examples=examples,
        ready=lambda model: use_threads(threads_of(problem.config, checkpoint)),
    )
