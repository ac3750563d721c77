"""How many documents a candidate is scored on: what racing, halving and item response share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from evomerge.errors import ConfigError
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.tasks.info import Facts
from evomerge.scores import Objective, Scores, Split


class Fidelity(Protocol):
    """Scores candidates on as many documents as each is worth.

    Laws: what it does with a candidate follows from the arguments of `run` and its own settings
    alone, so that a resumed search repeats it; where it leaves documents out, the scores say what
    is expected of all of them (`Scores.expected`); who may be the best is scored on all.
    """

    @property
    def recent(self) -> int:
        """How many of the latest candidates it wants to know."""
        ...

    @property
    def whole(self) -> bool:
        """Whether of these it wants only such as were scored on all documents."""
        ...

    def run(
        self,
        evaluator: Evaluator,
        model: Any,
        split: Split,
        incumbent: Scores,
        earlier: Sequence[Scores],
        objectives: Sequence[Objective],
    ) -> Scores:
        """Return a model's scores on the incumbent's documents, or some and what they let expect.

        Args:
            incumbent: of the best candidate so far, on all documents; these are asked.
            earlier: of the `recent` candidates before, the latest last.

        Raises:
            CandidateError: the model cannot be run.
        """
        ...


def check_means(section: str, objectives: Sequence[Objective], facts: Facts) -> None:
    """Refuse objectives whose score is not a mean over documents.

    Args:
        section: the key that asks for fewer documents, for the error.

    Raises:
        ConfigError: one of them is not.
    """
    for objective in objectives:
        _, about = facts.metric(objective.task, objective.metric)
        if not about.is_mean:
            raise ConfigError(
                f"`{section}` judges candidates document by document, but metric "
                f"{objective.metric!r} of {objective.task!r} is not a mean over documents; set "
                f"`{section}.enabled` to false, or name the tasks of a group one by one."
            )
