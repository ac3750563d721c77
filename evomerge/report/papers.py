"""The papers behind a run: what to cite besides evomerge (docs/how-to/cite.md)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from evomerge.merging.methods import get_method

if TYPE_CHECKING:
    from evomerge.report.view import View


class Paper(NamedTuple):
    """A publication, and what of a run it is behind."""

    subject: str
    reference: str

    @property
    def text(self) -> str:
        """Both as text."""
        return f"{self.subject}: {self.reference}"


def papers_of(view: View) -> list[Paper]:
    """Return the papers of the space, methods, optimizer and statistics that a run has used."""
    config = view.config
    every = [Paper("evolutionary model merge", reference) for reference in config.space.papers]
    methods = [get_method(name) for name in config.space.methods]
    every += [Paper(method.name, method.paper) for method in methods if method.paper]
    every += [Paper(config.optimizer.name, reference) for reference in config.optimizer.papers]
    return [*dict.fromkeys([*every, *_statistics(view)])]


def _statistics(view: View) -> Iterator[Paper]:
    """Yield the papers of the statistics behind the scores on test documents."""
    config, winner = view.config, view.history.winner
    scores = winner.scores("test") if winner else None
    if config.evaluation.search.fresh is not None:
        yield Paper("scores on samples of documents", "Agresti and Coull 1998")
    if scores is None:
        return
    columns = [column for column in scores.values.values() if column]
    if any({*column} <= {0.0, 1.0} for column in columns):
        yield Paper("intervals of scores", "Wilson 1927, doi 10.1080/01621459.1927.10502953")
        yield Paper("comparisons of models", "Agresti and Min 2005, doi 10.1002/sim.1781")
    if len({objective.task for objective in config.objectives if objective.task}) > 1:
        yield Paper("intervals over tasks", "Zou and Donner 2008, doi 10.1002/sim.3095")
