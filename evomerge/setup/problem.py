"""What a search is about: parents, space, objectives and documents, checked against the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from evomerge.config.frozen import Documents
from evomerge.config.schema import SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.scores import Objective, Split
from evomerge.setup.tasks import check_sources, load_tasks
from evomerge.space.protocol import Space

if TYPE_CHECKING:
    from evomerge.evaluate.evaluator import Evaluator


@dataclass(frozen=True)
class Problem:
    """A checked search.

    Attributes:
        config: the search file, references to local folders made absolute.
        checkpoints: every parent and the base by reference, opened but not loaded.
        host: reference of the parent that gives config and tokenizer.
        space: what is searched.
        objectives: what is maximised, metric names completed and directions known.
        splits: the documents of every split, by task.
        allow_pickle: parents' weights may be pickles.
        loaded: the objectives' tasks, where they are loaded already.
    """

    config: SearchConfig
    checkpoints: Mapping[str, Checkpoint]
    host: str
    space: Space
    objectives: tuple[Objective, ...]
    splits: Mapping[Split, Documents]
    allow_pickle: bool = False
    loaded: Evaluator | None = field(default=None, compare=False, repr=False)

    @cached_property
    def evaluator(self) -> Evaluator:
        """The objectives' tasks, loaded when they are first needed.

        Raises:
            ConfigError: a task is gone, or its documents are not those that the run has used.
        """
        if self.loaded is not None:
            return self.loaded
        evaluator = load_tasks(self.config)
        check_sources(self.config, evaluator)
        return evaluator
