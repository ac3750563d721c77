"""Running the search of a run folder, and scoring a model on a search's documents."""

import logging
import math
import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from evomerge.device import use_threads
from evomerge.errors import (
    CandidateError,
    CheckpointError,
    ConfigError,
    RecipeError,
    RunFolderError,
    SearchError,
    among,
    listed,
)
from evomerge.execute.devices import device_change
from evomerge.models.references import open_parent
from evomerge.problem.parents_as_themselves import parent_notes
from evomerge.problem.problem import Problem, changes_since, load_single, threads_of
from evomerge.problem.resolve import sample_recipes
from evomerge.recipe import Recipe
from evomerge.run.folder import MANIFEST, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.logbook import Follower, Logbook
from evomerge.scores import SPLITS, Example, Scores, Split
from evomerge.searching.loop import Search
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
        with run.writing() as journal, run.logged():
            for warning in changes_since(run.record()):
                log.warning(warning)
            if (change := device_change(problem.config, run.timings.peak())) is not None:
                log.warning(change)
            logbook = Logbook(run, journal, followers)
            check_search_file(run, logbook)
            note_budget(problem, logbook, new_budget)
            if not logbook.history.finished:
                for line in parent_notes(problem):
                    log.info(line)
                check_weights_are_finite(problem)
            with closing(Session(problem, logbook)) as session:
                return Search(session).run()
    except (CheckpointError, ConfigError, RecipeError):
        if not History(run.events()).finished:
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


def prompts(problem: Problem, count: int) -> list[Example]:
    """Return the first `count` search documents of each task, as the merges get them.

    No weights are read and nothing is scored.
    InputError: the tokenizer or its chat template cannot be used.
    """
    from evomerge.merging.architecture.loading import without_weights
    from evomerge.merging.backend import tokenizer

    recipe = next(iter(problem.space.baselines().values()))
    model = without_weights(problem.checkpoints[recipe.host].config)
    documents = problem.splits["search"]
    merged = tokenizer(problem.checkpoints, recipe)
    return problem.evaluator.prompts(model, merged, "search", documents, count)


def evaluate(problem: Problem, model: str, split: str, examples: int = 0) -> Scores:
    """Score any model on the documents of a search; InputError: there is no such split or model.

    `examples`: number of documents of each task whose prompts and answers come with the scores.
    """
    from evomerge.evaluation.evaluator import score_single
    from evomerge.evaluation.tasks.objective import Merges

    split_of = _split(split)
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


def evaluate_recipes(problem: Problem, recipes: Sequence[Recipe], split: str) -> list[Scores]:
    """Build recipes of the parents of a search one after the other in memory, and score each.

    Raises:
        RecipeError: a recipe has a parent that the search does not have, or another host or dtype.
        CandidateError: a model cannot be built or scored.
    """
    from evomerge.execute.protocol import Job
    from evomerge.execute.worker import Worker

    split_of, known = _split(split), problem.checkpoints
    usual = (problem.host, problem.config.dtype)
    for recipe in recipes:
        if others := [name for name in recipe.parents if name not in known]:
            raise RecipeError(
                f"The recipe {recipe.digest[:8]} has the parent {others[0]!r}, which the search "
                f"does not have (it has {listed(known)}); merge it into a folder, and give that."
            )
        if (recipe.host, recipe.dtype) != usual:
            raise RecipeError(
                f"The recipe {recipe.digest[:8]} has the host {recipe.host!r} and the dtype "
                f"{recipe.dtype}, the candidates of the search {usual[0]!r} and {usual[1]}; merge "
                "it into a folder, and give that, or of a parent itself its name."
            )
    worker, scores = Worker(problem), list[Scores]()
    try:
        for number, recipe in enumerate(recipes):
            outcome = worker(Job(number, recipe, split_of))
            if not isinstance(outcome, Scores):
                raise CandidateError(f"The recipe {recipe.digest[:8]} has no scores: {outcome}.")
            scores.append(outcome)
    finally:
        problem.evaluator.release(engine=True)
    return scores


def _split(name: str) -> Split:
    """Return the split of a name; ConfigError: there is none."""
    if (split := next((one for one in SPLITS if one == name), None)) is None:
        raise ConfigError(f"split is {name!r}; allowed are {among(name, SPLITS)}")
    return split
