"""Searches whose candidates are scored elsewhere: a study gives candidates and is told scores."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from operator import index
from os import PathLike
from pathlib import Path
from typing import Any, Self

from evomerge.api.run import Run
from evomerge.api.search import content_of, warn, with_candidates
from evomerge.config.messages import parsed
from evomerge.config.schema import BudgetConfig
from evomerge.device import torch_threads
from evomerge.errors import InputError, RunFolderError, SearchError, did_you_mean
from evomerge.execute.worker import Worker
from evomerge.parsing.values import path_of, shown
from evomerge.problem import parents_as_themselves, preflight, resolve, runs
from evomerge.problem.problem import load_parent
from evomerge.problem.resolve import folder_of, read_search
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder, is_begun
from evomerge.run.history import Candidate
from evomerge.run.logbook import Logbook
from evomerge.scores import TOLD, Failure, Scores
from evomerge.searching import run as searches
from evomerge.searching.loop import Search
from evomerge.searching.session import Session
from evomerge.space.protocol import Gene

_studies: weakref.WeakValueDictionary[Path, Study] = weakref.WeakValueDictionary()
"""The open studies of this process, by folder."""


class Asked:
    """A candidate that a study has given, and that waits for its score.

    `number` is its number in the run, `name` the label of a baseline (a parent, `uniform`) or
    `optimizer`, `genes` name of a gene -> value; a baseline has none.
    """

    def __init__(self, study: Study, candidate: Candidate, genes: Sequence[Gene]) -> None:
        self._study, self.number, self.name = study, candidate.number, candidate.name
        names = (gene.name for gene in genes)
        self.genes: dict[str, float] = dict(zip(names, candidate.genome, strict=False))

    def __repr__(self) -> str:
        return f"Asked({self.number}, {self.name!r})"

    @property
    def recipe(self) -> Recipe:
        """The recipe of its model, with pins; `evomerge.merge` builds it anywhere."""
        return self._study.recipe(self.number)

    def model(self) -> tuple[Any, Any]:
        """Return its model and tokenizer, built in memory where `evaluation.device` says.

        They are yours until its score is told; then the next candidate takes their memory. One
        candidate at a time has its model in memory; `save` writes the models of others.
        CandidateError: the merged weights are not finite; tell its failure. InputError: it waits
        for no score, or another open candidate has its model in memory.
        """
        return self._study._model(self.number)

    def save(self, out: str | PathLike[str]) -> Path:
        """Write its model as a checkpoint into a new folder, and return the folder."""
        return self._study.export(out, self.number)


class Study(Run):
    """A search whose candidates are scored by your own code: in a game, by a robot, by a judge.

    The search file has objectives with `told`, and no tasks:

        config = {
            "parents": ["org/first", "org/second"],
            "base": "org/base",
            "objectives": [{"told": "wins"}],
            "budget": {"candidates": 100},
        }
        study = evomerge.Study(config, run="runs/study")
        for candidate in study:
            model, tokenizer = candidate.model()
            study.tell(candidate, play(model, tokenizer))
        study.export("runs/best")

    The first candidates are the parents and the uniform merge. Any number of candidates may be
    open at a time, and their scores may be told in any order, by several threads too.

    What is asked and told is in the journal at once. After a kill, the same call goes on: `ask`
    first gives the candidates that are open. The study is a `Run`, with `best`, `candidates` (a
    DataFrame), `export` and `report`. There are no validation and test documents.

    `config` is the path of a search file or its content, as for `search`; None: as in the run. If
    the folder `run` holds a run, it must be the same search; only `budget` may differ, and counts
    from now on. A study that this process has open on it is closed. `candidates` is the largest
    number of candidates, in place of `budget.candidates`.

    Raises:
        InputError: the search file, a parent or the folder is wrong, or another process has the
            study open.
    """

    def __init__(
        self,
        config: str | PathLike[str] | Mapping[str, Any] | None = None,
        *,
        run: str | PathLike[str],
        candidates: int | None = None,
    ) -> None:
        folder = path_of(run, "run").absolute()
        if folder in _studies:
            _studies[folder].close()
        budget = start_study(config, folder, candidates)
        super().__init__(run)
        self._problem = runs.problem_of(self._run)
        if not self._problem.config.is_study:
            raise RunFolderError(
                f"{self.folder} is the run of a search that evomerge scores itself; go on with it "
                "by `evomerge.resume`."
            )
        self._lock = threading.RLock()
        self._genes = preflight.shown_genes(self._problem)
        self._built: tuple[int, Worker] | None = None
        with ExitStack() as stack:
            journal = stack.enter_context(self._run.writing())
            logbook = Logbook(self._run, journal, ())
            searches.check_search_file(self._run, logbook)
            searches.note_budget(self._problem, logbook, budget)
            self._session = Session(self._problem, logbook)
            self._search = Search(self._session)
            self._session.publish_best()
            self._search.replay_arrivals()
            self._search.ask_baselines()
            self._waiting = self._session.history.open
            """Candidates that nobody was given yet."""
            self._end = weakref.finalize(self, stack.pop_all().close)
        _studies[folder] = self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Asked]:
        """Yield candidates until the study gives no further one."""
        while (candidate := self._give()) is not None:
            yield candidate

    @property
    def is_done(self) -> bool:
        """Whether the budget, or the user, allows no further candidate; some may be open."""
        with self._lock:
            return self._search.is_spent and not self._ready()

    def ask(self) -> Asked:
        """Return a candidate to score: an open one of an earlier session, or a new one.

        Raises:
            SearchError: the budget allows no further candidate, or the user has asked to stop.
        """
        candidate = self._give()
        if candidate is None:
            history = self._session.history
            opened = ", ".join(str(one.number) for one in history.open) or "none"
            raise SearchError(
                f"The study {self.folder} gives no further candidate after "
                f"{len(history.candidates)}, as its budget or `evomerge stop` says (open: "
                f"{opened}); open it with a larger `candidates` to go on."
            )
        return candidate

    def tell(
        self,
        candidate: Asked | int,
        score: float | Mapping[str, float] | None,
        reason: str = "no score was told",
    ) -> None:
        """Tell the score of an open candidate, which `ask` has given or a number names.

        The score is a number, or name -> number if the search file names several scores, each in
        its own sign; None or NaN: the candidate has failed, and `reason` says why. InputError:
        there is no such open candidate in this study, the score is no number, or the names differ.
        """
        with self._lock:
            opened = self._open(candidate)
            outcome = Failure(TOLD, str(reason)) if score is None else self._scores(score)
            self._session.record(opened, outcome)

    def close(self) -> None:
        """Close the run folder, so that another process can go on; what is open stays open."""
        with self._lock:
            self._end()
            self._built = None

    def _check_open(self) -> None:
        if not self._end.alive:
            raise RunFolderError(
                f"This study of {self.folder} was closed, or opened again; take the new one."
            )

    def _give(self) -> Asked | None:
        """Return the next candidate, made if need be; None if there is no further one."""
        with self._lock:
            self._check_open()
            while not (ready := self._ready()):
                if (candidate := self._search.ask_after_arrivals()) is None:
                    return None
                self._waiting.append(candidate)
            self._waiting.remove(ready[0])
            return Asked(self, ready[0], self._genes)

    def _ready(self) -> list[Candidate]:
        """Return what can be given: not what has, or will get, the score of an equal one."""
        self._waiting = [
            candidate
            for candidate in self._waiting
            if candidate.first_outcome is None and not self._session.take_scores(candidate)
        ]
        return [candidate for candidate in self._waiting if not self._session.is_held(candidate)]

    def _open(self, asked: Asked | int) -> Candidate:
        """Return an open candidate, named by its number perhaps; InputError: it is not open."""
        name: Any = asked
        if isinstance(asked, Asked):
            name, other = asked.number, asked._study.folder
            if other.absolute() != self.folder.absolute():
                raise InputError(
                    f"{asked!r} is a candidate of the study {other}, and this one is "
                    f"{self.folder}; tell its score to its own study."
                )
        try:
            number = index(name)
        except TypeError:
            raise InputError(
                f"The candidate is {shown(asked)}; it must be one that `ask` has given, or its "
                "number."
            ) from None
        self._check_open()
        candidates = self._session.history.candidates
        if not 0 <= number < len(candidates):
            why = f"the study has given {len(candidates)} candidates so far, from number 0"
        elif candidates[number].first_outcome is not None:
            why = "it has an outcome already"
        elif self._session.is_held(candidates[number]):
            why = "it has the recipe of another open candidate, and gets its score"
        else:
            return candidates[number]
        raise InputError(f"Candidate {number} waits for no score: {why}.")

    def _scores(self, score: float | Mapping[str, float]) -> Scores:
        config = self._problem.config
        names = list(dict.fromkeys(i.metric for i in (*config.objectives, *config.constraints)))
        values = score if isinstance(score, Mapping) else {names[0]: score}
        unknown = [name for name in values if name not in names]
        if unknown or len(values) < len(names):
            near = did_you_mean(str(unknown[0]), names) if unknown else ""
            raise InputError(
                f"The score is {shown(score)}, but the search file wants numbers for "
                f"{', '.join(names)}; tell a mapping with these names.{near}"
            )
        try:
            if any(isinstance(value, str | bytes) for value in values.values()):
                raise TypeError  # which `float` would read
            return Scores({}, {}, {f"{TOLD}/{name}": float(x) for name, x in values.items()})
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"The score is {shown(score)}, but must be a number, or None for a candidate that "
                "has failed; `reason` says why."
            ) from None

    def _model(self, number: int) -> tuple[Any, Any]:
        """See `Asked.model`. It takes the memory of the last model, which is all written again."""
        with self._lock:
            candidate = self._open(number)
            itself = parents_as_themselves.parent_itself(self._problem, candidate)
            if itself is not None:
                return load_parent(self._problem, itself.host)
            owner, worker = self._built or (number, None)
            if owner != number and self._session.history.candidates[owner].first_outcome is None:
                raise InputError(
                    f"Candidate {owner} has its model in memory; tell its score before "
                    f"candidate {number} is built, or write this one with `save`."
                )
            if worker is None:
                with torch_threads():
                    worker = Worker(self._problem)
            self._built = number, worker
            model = worker.build(self._session.recipe(candidate))
            worker.evaluator.touch()  # the caller may change the model
            return model, worker.evaluator.tokenizer


def start_study(
    config: str | PathLike[str] | Mapping[str, Any] | None, folder: Path, candidates: int | None
) -> dict[str, float]:
    """Create the run of a study, if the folder has none; return the bounds that are new."""
    bounds = {} if candidates is None else {"candidates": candidates}
    if bounds:
        parsed(BudgetConfig, bounds, "budget")
    if config is None:
        if not is_begun(folder):
            raise RunFolderError(
                f"{folder} has no study that could go on; give a search file, with which one "
                "begins."
            )
        return dict(bounds)
    data, source = content_of(config)
    content = with_candidates(data, candidates)
    if is_begun(folder):
        return runs.going_on(folder, content, source)[0]
    RunFolder.check_free(folder)
    search_file = read_search(content, source)
    runs.check_study(search_file)
    in_order = search_file.with_values("executor", order="arrival")
    problem = resolve.resolve(in_order, folder_of(source))
    searches.check_weights_are_finite(problem)
    warn(problem)
    runs.begin(folder, problem, search_file, source)
    return {}
