"""One reading of a run, from which its report is made: the best candidate, its recipe, pictures."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig
from evomerge.errors import RecipeError
from evomerge.evaluation.objectives import stock_tasks
from evomerge.evaluation.tasks.stock import stock_command
from evomerge.recipe import Recipe
from evomerge.report.pictures import candidates_charts, standings_chart
from evomerge.report.recipe_picture import recipe_picture
from evomerge.report.rows import candidate_rows
from evomerge.report.standings import Standings, Verdict
from evomerge.report.tables import next_step, standings
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.ranking import Ranking, best_of, measured, ranking_of
from evomerge.words import renamed, short_names


@dataclass(frozen=True)
class View:
    """A run as it was when it was read: its folder, record and candidates."""

    run: RunFolder
    record: Record
    history: History

    @classmethod
    def of(cls, run: RunFolder) -> Self:
        """Read a run."""
        return cls(run, run.record(), History(run.events()))

    @property
    def config(self) -> SearchConfig:
        """The search file, with all that was resolved."""
        return self.record.config

    @cached_property
    def ranking(self) -> Ranking:
        """What compares the candidates."""
        return ranking_of(self.record)

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
        """Whether the search worked, and what to do next if there is no evidence."""
        advice = next_step(self.table, self.record, self.history, self.run.path)
        return self.table.verdict(self.best, advice)

    @cached_property
    def names(self) -> dict[str, str]:
        """Reference of a parent -> the name that people read, as in the standings."""
        return short_names(filter(None, (*self.config.parents, self.config.base)))

    @property
    def genes(self) -> list[str]:
        """The genes, in the order of the genome, with the names of parents that people read."""
        return [renamed(name, self.names) for name in self.record.genes]

    def candidates(self) -> list[dict[str, Any]]:
        """Return a row for each candidate; see `candidate_rows`."""
        return candidate_rows(self.history, measured(self.ranking), self.genes)

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe of the best candidate, from `best.yaml`; None if that has another one."""
        try:
            recipe = Recipe.from_yaml((self.run.path / "best.yaml").read_text(encoding="utf-8"))
        except (OSError, RecipeError):
            return None
        best = self.best
        # The file of a parent has its own config and tokenizer, and so another digest.
        fits = best and (recipe.parents == (best.label,) or recipe.digest == best.digest)
        return recipe if fits else None

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The pictures that this run can have, as matplotlib figures by name."""
        figures: dict[str, Any] = {**candidates_charts(self.history, self.ranking)}
        if self.table.rows and self.table.has_chart:
            figures["standings"] = standings_chart(self.table)
        if (recipe := self.recipe) and (
            figure := recipe_picture(recipe, short_names(recipe.parents))
        ):
            figures["recipe"] = figure
        return figures

    @property
    def stock_command(self) -> str | None:
        """The command that scores the exported model by the stock tool; see `stock_command`."""
        if stock_tasks(self.config) != self.config.tasks:
            return None
        stored = self.best is not None and "test" in self.best.as_itself
        single = self.history.threads == 1
        return stock_command(self.record, self.run.path, single_thread=single, stored_dtype=stored)
