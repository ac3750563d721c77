"""A run folder as an object, for Python and notebooks, its pictures, and runs in a table."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig
from evomerge.errors import InputError, without_controls
from evomerge.export.checkpoint import export_candidate
from evomerge.models.checkpoint import Checkpoint
from evomerge.parsing.values import path_of
from evomerge.problem import parents, parents_as_themselves
from evomerge.problem.problem import load_single
from evomerge.problem.runs import problem_of
from evomerge.recipe import Recipe
from evomerge.report import columns, facts, fronts, page, pictures
from evomerge.report.view import View, run_rows, searches_of
from evomerge.run.atomic import TemporaryFolder
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.ranking import best_merge, front_of
from evomerge.scores import SPLITS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


class Run:
    """The run in a folder: its candidates, the best of them, the standings.

    The properties read the journal when it has grown, so they are up to date while the search
    runs, and `run.best is run.winner` once there is a winner.
    RunFolderError: it is no run folder.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        self._run = RunFolder(path_of(folder, "folder"))
        self.folder: Path = self._run.path
        self._read: tuple[int, View] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r})"

    def __str__(self) -> str:
        """The answer in words, and how the models compare where the answer comes from."""
        table, text = (view := self._view).table, f"{self.folder}: {view.verdict.text}"
        split, score = table.compared_on, table.main_column
        if split is None:
            return text
        unit = " in %" if table.factor(score) == 100 else ""
        cells = ((row, " ".join(table.cell(row, split, score)).strip()) for row in table.rows)
        rows = [f"  {table.names[row.label]}: {cell}" for row, cell in cells]
        return "\n".join([text, f"{score} on {split}{unit}:", *rows])

    def _repr_html_(self) -> str:
        return f"<pre>{escape(without_controls(str(self)))}</pre>"

    @property
    def _view(self) -> View:
        """The run as it is now; the same object as before if its journal has not grown."""
        size = self._run.journal_path.stat().st_size if self._run.journal_path.exists() else -1
        if self._read is None or self._read[0] != size:
            self._read = size, View.of(self._run)
        return self._read[1]

    @property
    def config(self) -> SearchConfig:
        """The search file of the run, with all defaults and values in place of `auto`."""
        record = self.record
        vars(record.config)["frozen"] = record  # where earlier releases had it
        return record.config

    @property
    def record(self) -> Record:
        """What was resolved when the run began, as it is in `manifest.json`."""
        return self._run.record()

    def stop(self) -> None:
        """Ask the search to begin no further candidate: it chooses and tests a winner, and ends.

        `resume` continues as if it had not been stopped. RunFolderError: no process is searching.
        """
        self._run.ask_to_stop()

    @property
    def history(self) -> History:
        """All candidates with their outcomes, and the winner."""
        return self._view.history

    @property
    def status(self) -> dict[str, Any]:
        """What `evomerge status --json` prints: state, counts, budget, best candidate, workers."""
        return facts.progress(self._run)

    @property
    def candidates(self) -> pd.DataFrame:
        """One row for each candidate: origin, fitness, scores by split, genes, seconds, failure.

        `scores` and `gene_values` have scores and genes in rows, with a column for each part of
        their names.
        """
        return _table(self._view.candidates(), "candidate")

    @property
    def scores(self) -> pd.DataFrame:
        """One row for each score of a candidate, and of the base.

        The columns are `candidate` (-1 is the base, if it is no parent), `origin`, `split`, `task`,
        `metric`, `value` (in the metric's own sign and unit), `documents` (how many it is of; 0 if
        not of documents) and `is_estimate` (whether of a part of the search documents).
        """
        import pandas as pd

        return pd.DataFrame(columns.score_rows(self._view), columns=columns.SCORE_COLUMNS)

    @property
    def gene_values(self) -> pd.DataFrame:
        """One row for each gene of each candidate that the optimizer proposed.

        The columns are `candidate`, `gene` (its whole name), `place` (a layer group, `embeddings`,
        a slice; empty for a gene of the whole model), `component` (empty if the place has one
        value), `parent` (empty for a knob of the merge), `knob` and `value`.
        """
        import pandas as pd

        return pd.DataFrame(columns.gene_rows(self._view), columns=columns.GENE_COLUMNS)

    @property
    def best(self) -> Candidate | None:
        """The winner, or the best candidate so far; of a front, its knee. None: none is scored."""
        return self._view.best

    @property
    def winner(self) -> Candidate | None:
        """What was chosen on the validation documents; of a front, its knee. None before that."""
        return self.history.winner

    @property
    def front(self) -> list[Candidate]:
        """The candidates that no other one beats; with one fitness, the best candidate alone."""
        view = self._view
        return front_of(view.history, view.ranking)

    def hypervolume(self, box: Mapping[str, tuple[float, float]] | None = None) -> float:
        """Return the share of a box of scores that the front dominates, from 0 to 1.

        It uses test scores if every member of the front has them, else search scores.

        Args:
            box: `task/metric` -> (worst, best), the same for fronts that are compared; None: from
                the worst to the best score of all candidates of this run.

        Raises:
            InputError: the run is for a single fitness, or the box does not fit its objectives.
        """
        searched = (view := self._view_of_front()).history, view.ranking
        split = fronts.split_of_front(*searched)
        return fronts.hypervolume(*searched, box or fronts.box_of([searched], split), split)

    @property
    def standings(self) -> pd.DataFrame:
        """Parents, uniform merge and searched merge, with 95 % intervals.

        One row for each `score` (`task/metric`, and `fitness` if there are several objectives),
        `split` (the test first) and `model`, with `value`, `low` and `high`: fractions, as lm-eval
        gives them, not per cent.
        """
        import pandas as pd

        table = self._view.table
        rows = [
            {"score": column, "split": split, "model": table.names[row.label], **estimate.to_dict()}
            for column in table.columns
            for split in reversed(SPLITS)
            for row in table.rows
            if (estimate := row.estimates.get((split, column)))
        ]
        return pd.DataFrame(rows, columns=["score", "split", "model", "value", "low", "high"])

    def documents(self) -> pd.DataFrame:
        """Return the score of every document: a row for each candidate, split, document and metric.

        The columns are `candidate` (-1 is the base, if it is no parent), `split`, `task`,
        `document` (its id, as lm-eval has it; of a file of rows the line, from 0), `metric` (every
        one of the task), `value` in the metric's own sign, and where the run keeps them, as for
        three documents of each task of baselines and of what was tested, `text` (the answer),
        `prompt` and `target`. A score that is not made of documents has no rows.
        """
        import pandas as pd

        return pd.DataFrame(facts.document_rows(self.history), columns=facts.DOCUMENT_COLUMNS)

    def genes(self, candidate: int | str = "best") -> dict[str, float]:
        """Return the genes of a candidate (`best`, or a number) by name.

        InputError: there is no such candidate, or it is a baseline, which has no genes.
        """
        chosen = self._candidate(candidate)
        if not chosen.genome:
            who = f"Candidate {chosen.number} ({chosen.name})"
            merge = best_merge(self.history, self._view.ranking)
            such = "" if merge is None else f", such as {merge.number}, the best of them"
            raise InputError(
                f"{who} has no genes; give a candidate that the optimizer proposed{such}."
            )
        return dict(zip(self._view.genes, chosen.genome, strict=False))

    def recipe(self, candidate: int | str = "best") -> Recipe:
        """Return the recipe of a candidate, with pins. The parents must be there.

        Of a parent it is the recipe of the parent itself, with its own config and tokenizer.
        InputError: there is no such candidate, or a parent is missing or has changed.
        """
        problem = problem_of(self._run)
        chosen = self._candidate(candidate)
        recipe = parents_as_themselves.recipe_to_write(problem, chosen)
        return parents.pinned(recipe, problem.checkpoints)

    def export(
        self,
        out: str | PathLike[str],
        candidate: int | str = "best",
        *,
        dtype: str | None = None,
        shard_size: str = "5GB",
        overwrite: bool = False,
    ) -> Path:
        """Write a candidate as an ordinary Hugging Face checkpoint, bit for bit what was scored.

        `out` is the folder to create, which is returned. `candidate` is `best` or a number, `dtype`
        the dtype of the weights, if not the one that was scored, `shard_size` the largest size of a
        file, `overwrite` whether a model that evomerge wrote to `out` is replaced. InputError:
        there is no such candidate, a parent has changed, or `out` exists.
        """
        target = path_of(out, "out")
        how = {"overwrite": overwrite}
        written = export_candidate(self._run, target, str(candidate), dtype, shard_size, **how)
        for note in written.notes:
            warnings.warn(note, stacklevel=2)
        return target

    def load(self, candidate: int | str = "best") -> tuple[Any, Any]:
        """Return model and tokenizer of a candidate, for transformers: what `export` writes.

        It is exported to a temporary folder first, which must have room for it. The model is where
        the search scores models (`evaluation.device`), in float32 if that computes in it.
        InputError: as for `export`.
        """
        with TemporaryFolder() as folder:
            written = self.export(folder / "model", candidate)
            return load_single(self.config, Checkpoint.open(written, str(self.folder)))

    def report(self, out: str | PathLike[str] | None = None) -> Path:
        """Write the run as one HTML page and return its path; None: into the run folder."""
        target = self.folder / "report.html" if out is None else path_of(out, "out")
        page.write_page(self._run, target)
        return target

    def _view_of_front(self) -> View:
        if (view := self._view).ranking.has_front:
            return view
        raise InputError(f"{self.folder} has no front, since its `mode` is not 'pareto'.")

    def _candidate(self, which: int | str) -> Candidate:
        view = self._view
        return view.history.chosen(str(which), view.best)


def results(runs: Iterable[Run | str | PathLike[str]]) -> pd.DataFrame:
    """Compare runs: a row for each search file, with means over its runs, which have other seeds.

    The index is the name of the folders without the seed. `score` is the winners' mean fitness on
    test documents, with its 95 % interval (`low`, `high`) over the `seeds` runs that have ended;
    `merges_won` of these winners are merges. `best_parent` and `uniform` are in the same unit:
    fractions, not per cent. Fronts have `front`, their size, and `hypervolume`. `cpu_seconds` is
    the time of proposing, merging and scoring, with the final scores (runs of older versions:
    without proposing). InputError: a folder is no run, or two are the same search with the same
    seed.
    """
    return _table(run_rows(_folders(runs)), "search")


def plot_results(runs: Iterable[Run | str | PathLike[str]]) -> Figure:
    """Return a figure of the best fitness so far over candidates, a line for each search file.

    It is the fitness on search documents: the mean over the runs of the file, in a band from the
    lowest to the highest, up to the end of the shortest run. InputError: as for `results`, there is
    no run, or one is for a front, which has no single score.
    """
    searches = searches_of(_folders(runs))
    for view in (every := [view for views in searches.values() for view in views]):
        if view.ranking.has_front:
            raise InputError(
                f"{view.run.path} is a search for a front, which has no single score; leave it out."
            )
    if not every:
        raise InputError("runs is empty; give at least one run.")
    return pictures.courses_chart(
        {name: [(view.history, view.ranking) for view in views] for name, views in searches.items()}
    )


def _table(rows: Sequence[Mapping[str, Any]], index: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(rows).set_index(index) if rows else pd.DataFrame()


def _folders(runs: Iterable[Run | str | PathLike[str]]) -> list[Path]:
    return [run.folder if isinstance(run, Run) else path_of(run, "runs") for run in runs]


def plot_history(run: Run) -> Figure:
    """Return a figure of the fitness of every candidate, and of the best one so far."""
    return pictures.best_so_far(run.history, run._view.ranking)


def plot_standings(run: Run) -> Figure:
    """Return a figure of parents, uniform merge and searched merge, with 95 % intervals."""
    return pictures.standings_chart(run._view.table)


def plot_front(
    run: Run,
    labels: Literal["knee", "front", "all"] | None = "knee",
    split: Literal["search", "test"] | None = None,
) -> Figure:
    """Return a figure of all candidates and of the front, the first objective against the others.

    Args:
        labels: which candidates have their numbers beside them: the knee, which is the winner, the
            whole front, all, or none. `7 +2` is candidate 7 and two others at the same point.
        split: `test` has intervals, `search` all candidates; None: `test` if the front was tested.

    Raises:
        InputError: the search is one for a single fitness, or there are no such labels or split.
    """
    view = run._view_of_front()
    if labels not in ("knee", "front", "all", None):
        raise InputError(f"labels is {labels!r}; give 'knee', 'front', 'all' or None.")
    if split not in ("search", "test", None):
        raise InputError(f"split is {split!r}; give 'search', 'test' or None.")
    return pictures.front_chart(view.history, view.ranking, labels, split)
