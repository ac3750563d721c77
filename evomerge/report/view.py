"""What the sections of a report are made from: one reading of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import RecipeError
from evomerge.recipe import Recipe
from evomerge.report.front_pictures import front_chart, hypervolume_so_far
from evomerge.report.gene_map import genes_picture
from evomerge.report.importance import gene_importance
from evomerge.report.names import short_names
from evomerge.report.pictures import (
    best_so_far,
    importance_bars,
    spread_of_generations,
    standings_chart,
)
from evomerge.report.recipe_picture import recipe_picture
from evomerge.report.settings import setting_lines
from evomerge.report.standings import Standings, standings
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.scores import Objective
from evomerge.searching.ranking import Ranking, best_of, ranking_of


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

    @property
    def objectives(self) -> Sequence[Objective]:
        """Its objectives."""
        return self.ranking.objectives

    @cached_property
    def genes(self) -> list[str]:
        """Names of the genes, in the order of the genome."""
        return self.config.frozen.genes if self.config.frozen else []

    @cached_property
    def gene_labels(self) -> list[str]:
        """The genes' names for people: local parents have the names of their folders."""
        names = short_names(self.config.parents)
        labels = list(self.genes)
        for parent in sorted(names, key=len, reverse=True):
            labels = [label.replace(parent, names[parent]) for label in labels]
        return labels

    @property
    def settings(self) -> list[str]:
        """A sentence for each setting that differs between the parents."""
        frozen = self.config.frozen
        if frozen is None:
            return []
        return setting_lines(frozen.settings, short_names(frozen.parents | frozen.merges))

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The pictures that this run can have, as matplotlib figures by name."""
        best = self.best
        genome = () if best is None else best.genome
        importance = gene_importance(self.history, self.gene_labels)
        drawn = {
            "standings": standings_chart(self.table) if self.table.rows else None,
            "front": front_chart(self.history, self.ranking) if self.table.has_front else None,
            "recipe": self.recipe and recipe_picture(self.recipe, _names(self.recipe)),
            "genes": genes_picture(self.gene_labels, genome, self.config.space.kind),
            "course": hypervolume_so_far(self.history, self.ranking)
            if self.table.has_front
            else best_so_far(self.history),
            "spread": spread_of_generations(self.history),
            "importance": importance_bars(importance) if importance else None,
        }
        return {name: figure for name, figure in drawn.items() if figure is not None}

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


def _names(recipe: Recipe) -> dict[str, str]:
    """Return the names that pictures show: reference of a parent or member -> name."""
    return {**short_names(recipe.parents), **{name: name for name in recipe.members}}
