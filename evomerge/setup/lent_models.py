"""Models of candidates in memory, which the code of a user has until their scores are told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.execute.protocol import Job
from evomerge.run.history import Candidate
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.parents_as_themselves import parents_as_themselves
from evomerge.setup.worker import load_parent, make_worker

if TYPE_CHECKING:
    from evomerge.execute.worker import Worker


class _Built(NamedTuple):
    """A model, what has built it, and its state then."""

    worker: Worker
    model: Any
    tokenizer: Any
    state: list[Any]


class LentModels:
    """Builds models of candidates; each has memory of its own until it is taken back.

    A later candidate is merged into a model that was taken back, unless that was changed: only the
    tensors in which recipes differ are written.
    """

    def __init__(self, checked: CheckedSearch) -> None:
        self._checked = checked
        self._itself = parents_as_themselves(checked)
        self._free: list[_Built] = []
        self._lent: dict[int, _Built] = {}  # by candidate

    def lend(self, candidate: Candidate, job: Job) -> tuple[Any, Any]:
        """Return model and tokenizer of a candidate; of a parent with other settings, the parent.

        Raises:
            CandidateError: the merged weights are not finite.
        """
        from evomerge.evaluation.inference.fingerprint import has_state, state_of

        if (itself := self._itself(candidate)) is not None:
            return load_parent(self._checked, itself.host)
        self.take_back(candidate.number)
        built = self._free.pop() if self._free else None
        if built is not None and has_state(built.model, built.tokenizer, built.state):
            worker = built.worker
        else:
            worker = self._new()
        model, tokenizer = worker.build(job.recipe), worker.evaluator.tokenizer
        self._lent[candidate.number] = _Built(worker, model, tokenizer, state_of(model, tokenizer))
        return model, tokenizer

    def take_back(self, number: int) -> None:
        """Take back the model of a candidate, if there is one, so that a later one can have it."""
        if number in self._lent:
            self._free.append(self._lent.pop(number))

    def clear(self) -> None:
        """Drop all models."""
        self._free.clear()
        self._lent.clear()

    def _new(self) -> Worker:
        """Return a new worker; the process keeps its number of threads."""
        from evomerge.evaluation.inference.device import keep_threads

        put_back = keep_threads()
        try:
            return make_worker(self._checked)
        finally:
            put_back()
