"""What the sections of a report are made from: one reading of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from evomerge.config.frozen import frozen_objectives
from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import RecipeError
from evomerge.recipe import Recipe
from evomerge.report.names import short_names
from evomerge.report.standings import Standings, standings
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.scores import Objective
from evomerge.searching.ranking import WeightedSum, best_of


@dataclass(frozen=True)
class View:
    """A run as it was when it was read.

    Attributes:
        run: the run folder.
        config: its search file.
        history: its candidates.
        objectives: its objectives.
    """

    run: RunFolder
    config: SearchConfig
    history: History
    objectives: Sequence[Objective]

    @classmethod
    def of(cls, run: RunFolder) -> View:
        """Read a run."""
        config = parse(run.config(), str(run.path / CONFIG))
        return cls(run, config, History(run.events()), frozen_objectives(config))

    @cached_property
    def table(self) -> Standings:
        """The standings."""
        return standings(self.history, self.objectives)

    @cached_property
    def best(self) -> Candidate | None:
        """The winner, or the best candidate so far."""
        return best_of(self.history, WeightedSum(self.objectives))

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

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe of the best candidate, from `best.yaml`; None if that has another one."""
        file = self.run.path / "best.yaml"
        try:
            recipe = Recipe.from_yaml(file.read_text(encoding="utf-8"))
        except (OSError, RecipeError):
            return None
        return recipe if self.best is not None and recipe.digest == self.best.digest else None
