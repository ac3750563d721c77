"""What a report shows: one reading of a run, as the tables and sentences of its page."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from evomerge.config.schema import Frozen, SearchConfig, parse
from evomerge.errors import RecipeError
from evomerge.recipe import Recipe
from evomerge.report import pictures
from evomerge.report.documents import Agreement, agreements, answers
from evomerge.report.gene_map import genes_picture
from evomerge.report.progress import progress
from evomerge.report.recipe_picture import path_text, recipe_picture
from evomerge.report.reproduce import lm_eval_command
from evomerge.report.rows import candidate_rows
from evomerge.report.standings import Standings, standings
from evomerge.report.verdict import Verdict, front_rows, main_column, verdict
from evomerge.report.words import (
    duration,
    renamed,
    sampling_note,
    setting_lines,
    short_names,
    short_scores,
    size_text,
)
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS, Example, Failure, Objective, Split
from evomerge.searching.ranking import Ranking, best_of, ranking_of

_MOST_REASONS = 10
_MOST_IDS = 30


class PageTable(NamedTuple):
    """A table of the page; a cell that is a pair of texts shows the second one small.

    Attributes:
        heads: the texts of the first row.
        rows: the cells of the other rows.
        marked: index of a row that stands out.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    marked: int | None = None


@dataclass(frozen=True)
class View:
    """A run as it was when it was read.

    Attributes:
        run: the run folder.
        config: its search file.
        history: its candidates.
        ranking: what compares its candidates.
    """

    run: RunFolder
    config: SearchConfig
    history: History
    ranking: Ranking

    @classmethod
    def of(cls, run: RunFolder) -> View:
        """Read a run."""
        config = parse(run.config(), str(run.path / CONFIG))
        return cls(run, config, History(run.events()), ranking_of(config))

    @cached_property
    def table(self) -> Standings:
        """The standings."""
        return standings(self.history, self.ranking)

    @cached_property
    def best(self) -> Candidate | None:
        """The winner, or the best candidate so far."""
        return best_of(self.history, self.ranking)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the search worked."""
        return verdict(self.table, self.best)

    @property
    def objectives(self) -> Sequence[Objective]:
        """Its objectives."""
        return self.ranking.objectives

    @property
    def frozen(self) -> Frozen:
        """What was resolved when the run began; empty for a run that does not have it."""
        return self.config.frozen or Frozen()

    @property
    def progress(self) -> dict[str, Any]:
        """What `evomerge status` prints."""
        return progress(self.run)

    @property
    def scores(self) -> PageTable:
        """The standings by the fitness or the only metric; those of a front by each objective."""
        if not self.table.has_front:
            return self._scores_of(main_column(self.table))
        names, split = short_scores(self.table.columns), self.table.compared_on or "search"
        return self._scores(
            {f"{names[key]} on {split}": (split, key) for key in self.table.columns}
        )

    @property
    def scores_by_task(self) -> dict[str, PageTable]:
        """A table for each further column of the standings; a phone has no room for all in one."""
        columns = [name for name in self.table.columns if name != main_column(self.table)]
        return {column: self._scores_of(column) for column in columns}

    def _scores_of(self, column: str) -> PageTable:
        return self._scores({split: (split, column) for split in reversed(SPLITS)})

    def _scores(self, columns: Mapping[str, tuple[Split, str]]) -> PageTable:
        """Return a row for each model.

        Args:
            columns: head of a column -> the split and the score that it shows.
        """
        found, rows, marked = self.table, [], None
        for index, row in enumerate(found.rows):
            cells = [found.cell(row, split, column) for split, column in columns.values()]
            rows.append([found.names[row.label], *cells])
            if row.label == "searched" or row.label.endswith("(knee)"):
                marked = index
        return PageTable(("model", *columns), rows, marked)

    @cached_property
    def neighbours(self) -> PageTable | None:
        """The neighbours on a front, and whether they differ."""
        found = front_rows(self.table)
        return None if found is None else PageTable(*found)

    @cached_property
    def comparisons(self) -> PageTable | None:
        """The searched merge against each baseline."""
        names, found = self.table.names, self.table.comparisons
        if not found:
            return None
        own = "winner" if names["searched"] == "winner" else "searched merge"
        heads = (f"{own} against", f"difference on {self.table.compared_on} documents")
        return PageTable(heads, [(names[label], item.text) for label, item in found.items()])

    @property
    def settings(self) -> list[str]:
        """A sentence for each setting that differs between the parents."""
        frozen = self.frozen
        return setting_lines(frozen.settings, short_names(frozen.parents | frozen.merges))

    @property
    def best_in_words(self) -> str:
        """Which candidate is the best, and what it is. There must be one."""
        assert self.best is not None
        name = self.table.names.get(self.best.name, self.best.name)
        what = (
            "a merge that the search found" if self.best.label is None else f"the baseline {name}"
        )
        which = "The winner" if self.history.winner is self.best else "The best so far"
        if self.table.has_front:
            which = "The knee of the front"
        return f"{which} is candidate {self.best.number}, {what}."

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe of the best candidate, from `best.yaml`; None if that has another one."""
        file = self.run.path / "best.yaml"
        try:
            recipe = Recipe.from_yaml(file.read_text(encoding="utf-8"))
        except (OSError, RecipeError):
            return None
        if self.best is None:
            return None
        # The file of a parent has its own config and tokenizer, and so another digest.
        is_parent = self.best.label is not None and recipe.parents == (self.best.label,)
        return recipe if is_parent or recipe.digest == self.best.digest else None

    @property
    def recipe_in_words(self) -> list[str]:
        """Sentences about the recipe: its methods, and which parents of a pool it merges."""
        if self.recipe is None or self.best is None:
            return []
        lines = []
        if self.best.label not in self.config.parents:
            methods = ", ".join(sorted({layer.method for layer in self.recipe.every_layer()}))
            lines.append(f"Merge method: {methods}; dtype {self.recipe.dtype}.")
        if self.config.space.most_parents is not None:
            merged = {
                source.parent for item in self.recipe.every_layer() for source in item.sources
            }
            pool = [parent for parent in self.config.parents if parent != self.config.base]
            used = [self._names[parent] for parent in pool if parent in merged]
            count = f"Of the {len(pool)} parents, it merges {len(used)}"
            lines.append(f"{count}: {', '.join(used)}.")
        return lines

    @property
    def path(self) -> str | None:
        """The path of the recipe through the layers; None if the space has no paths."""
        if self.recipe is None or self.config.space.kind == "parameters":
            return None
        return path_text(self.recipe, self._names)

    @cached_property
    def _names(self) -> dict[str, str]:
        return short_names(self.config.parents)

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The pictures that this run can have, as matplotlib figures by name."""
        genome = () if self.best is None else self.best.genome
        genes = [renamed(name, self._names) for name in self.frozen.genes]
        importance = pictures.gene_importance(self.history, genes)
        front = (self.history, self.ranking) if self.table.has_front else None
        drawn = {
            "standings": pictures.standings_chart(self.table) if self.table.rows else None,
            "front": front and pictures.front_chart(*front),
            "recipe": self.recipe and recipe_picture(self.recipe, _shown(self.recipe)),
            "genes": genes_picture(genes, genome, self.config.space.kind),
            "course": pictures.hypervolume_so_far(*front)
            if front
            else pictures.best_so_far(self.history),
            "spread": pictures.spread_of_generations(self.history),
            "importance": pictures.importance_bars(importance) if importance else None,
        }
        return {name: figure for name, figure in drawn.items() if figure is not None}

    @property
    def estimates(self) -> int:
        """Number of candidates that were scored on some of the search documents only."""
        return sum(item.is_estimate for item in self.history.candidates)

    @cached_property
    def _reasons(self) -> Counter[tuple[str, str]]:
        outcomes = (item.outcomes.get("search") for item in self.history.candidates)
        return Counter((item.stage, item.reason) for item in outcomes if isinstance(item, Failure))

    @cached_property
    def failures(self) -> PageTable | None:
        """The most frequent reasons of failures."""
        found = self._reasons.most_common(_MOST_REASONS)
        rows = [(count, stage, reason) for (stage, reason), count in found]
        return PageTable(("candidates", "failed in", "reason"), rows) if rows else None

    @property
    def more_failures(self) -> int:
        """Number of reasons that the table leaves out."""
        return max(0, len(self._reasons) - _MOST_REASONS)

    @cached_property
    def _agreements(self) -> tuple[Split | None, list[Agreement]]:
        return agreements(self.history, self.best, self.objectives)

    @property
    def agreed_on(self) -> Split | None:
        """The split of `who_is_right`."""
        return self._agreements[0]

    @property
    def who_is_right(self) -> PageTable | None:
        """How many documents the merge and the parents answer rightly."""
        heads = ("score", "merge and a parent", "only the merge", "only a parent", "nobody")
        rows = [
            (item.key, item.both, len(item.gained), len(item.lost), item.nobody)
            for item in self._agreements[1]
        ]
        return PageTable(heads, rows) if rows else None

    @property
    def document_ids(self) -> list[str]:
        """A sentence for each score: the documents that only the merge or a parent has right."""
        return [
            f"{item.key}: only the merge: {_some(item.gained)}; only a parent: {_some(item.lost)}."
            for item in self._agreements[1]
        ]

    @cached_property
    def answers(self) -> list[list[tuple[str, Example]]]:
        """The models' answers, by document."""
        return answers(self.history, self.best)

    @property
    def cost(self) -> list[str]:
        """Sentences about time, documents and memory."""
        counts = {
            split: sum(
                sum(scores.fidelity.values())
                for item in self.history.candidates
                if (scores := item.scores(split)) is not None
            )
            for split in SPLITS
        }
        scored = ", ".join(f"{count:,} {split}" for split, count in counts.items() if count)
        time, peak = duration(3600 * self.run.timings.hours()), self.run.timings.peak()
        lines = [f"{time} of work over all sessions; documents scored: {scored or 'none'}."]
        if "process" in peak:
            sizes = [size_text(peak["process"]), "with the mapped files of the parents"]
            if "accelerator" in peak:
                sizes.append(f"and {size_text(peak['accelerator'])} of accelerators")
            lines.append(f"Peak memory of a process that scored candidates: {', '.join(sizes)}.")
        return lines

    @property
    def phases(self) -> PageTable | None:
        """The time that each phase took."""
        rows = [
            (
                name,
                f"{item.seconds:,.1f}",
                "-" if (cpu := item.cpu_seconds) is None else f"{cpu:,.1f}",
            )
            for name, item in self.run.timings.spent().items()
        ]
        return (
            PageTable(("phase of all candidates", "seconds", "CPU seconds"), rows) if rows else None
        )

    @property
    def commands(self) -> list[str]:
        """The commands that repeat the search, the export and the scores."""
        lm_eval = lm_eval_command(self.run, self.config, self.best)
        return [
            "# the text under `search file` below, as search.yaml",
            "evomerge search search.yaml --run runs/again",
            "# the best candidate as an ordinary checkpoint",
            f"evomerge export {shlex.quote(str(self.run.path))} --out MODEL_DIR",
            *(["# its test score, by lm-eval itself", lm_eval] if lm_eval else []),
        ]

    @property
    def sampling_note(self) -> str | None:
        """Which scores come from texts that were drawn at random."""
        return sampling_note(self.frozen.sampled)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Name of a parent -> its fingerprint."""
        names = short_names(self.frozen.parents)
        return {names[parent]: digest for parent, digest in self.frozen.parents.items()}

    @property
    def search_file(self) -> str:
        """The search file as it was given, without what was added to it at the start."""
        return (self.run.path / CONFIG).read_text(encoding="utf-8").split("\nfrozen:")[0]

    @cached_property
    def candidates(self) -> PageTable:
        """A row for each candidate."""
        rows = candidate_rows(self.history, self.objectives)
        heads = [name for name in rows[0] if name != "digest"] if rows else ["candidate"]
        return PageTable(heads, [[_cell(row[name]) for name in heads] for row in rows])


def _shown(recipe: Recipe) -> dict[str, str]:
    """Return the names that pictures show: reference of a parent or member -> name."""
    return {**short_names(recipe.parents), **{name: name for name in recipe.members}}


def _some(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:_MOST_IDS])) or "none"
    return f"{shown}, ..." if len(ids) > _MOST_IDS else shown


def _cell(value: Any) -> str:
    if value is None or value is False:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
