"""Making merged tensors, in the same way for the model in memory and for checkpoints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from evomerge.errors import CandidateError, CheckpointError
from evomerge.merging.kernels.compiled import Array, are_finite
from evomerge.merging.kernels.noise import Noise
from evomerge.merging.kernels.passes import load, write_copy
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Merge, Operands
from evomerge.merging.tensors.plan import Planner, SourceTensor, TensorPlan
from evomerge.merging.tensors.reader import DTYPES, TensorReader
from evomerge.merging.tokenizers.rows import MatchedRows

if TYPE_CHECKING:
    from torch import Tensor


class TensorMaker:
    """Makes the tensors of the merged model as their plans say.

    `rows` is the merged vocabulary if rows of embeddings and head are matched by token.
    """

    def __init__(
        self, planner: Planner, reader: TensorReader, rows: MatchedRows | None = None
    ) -> None:
        self.planner, self.reader, self.rows = planner, reader, rows

    def read(self, plan: TensorPlan, source: SourceTensor) -> Array:
        """Return a source's tensor (see `DTYPES`) in the merged one's shape, to be read only."""
        array = self._stored(plan, source)
        if plan.method is not None or array.dtype == DTYPES[plan.dtype]:
            return array
        copied = np.empty(plan.shape, dtype=DTYPES[plan.dtype])
        write_copy(array, copied)  # a tensor with an adapter's change is float32
        return copied

    def check_source(self, plan: TensorPlan, source: SourceTensor) -> None:
        """Raise `CheckpointError` unless the weights of a source are finite; free its memory."""
        if self.planner.checkpoints[source.parent].tensors[source.name].floating:
            weights = self._stored(plan, source)
            if not are_finite(weights.reshape(-1)):
                raise _not_finite(plan, source, count_bad(weights))
        self.reader.release(source)

    def release(self, plan: TensorPlan) -> None:
        """Free the memory of a tensor's sources; see `TensorReader.release`."""
        for source in plan.inputs:
            self.reader.release(source)

    def is_copied(self, plan: TensorPlan, source: SourceTensor) -> bool:
        """Whether `read` returns memory of its own, not a view of a mapped file."""
        by_token = self.rows is not None and self._has_tokens(plan)
        return by_token or source.parent in self.reader.patches

    def prepare(self, plan: TensorPlan, *, reuse: bool) -> Merge:
        """Read the sources and compute what does not depend on knobs; the plan is no copy."""
        method = get_method(plan.method or "")
        noise = [Noise(plan.seed, item.parent, item.name) for item in plan.sources]
        given = Operands(
            [self.read(plan, item) for item in plan.sources],
            self.read(plan, plan.base) if plan.base else None,
            noise if method.random else (),
            reuse,
            self._has_tokens(plan),
        )
        return method.prepare(given)

    def _has_tokens(self, plan: TensorPlan) -> bool:
        """Whether a tensor has a row for each token of the vocabulary."""
        return plan.name in self.planner.host.token_tensors

    def working_bytes(self, plan: TensorPlan) -> float:
        """Return the bytes that the merge of a tensor takes at most, if they grow with it."""
        method = get_method(plan.method) if plan.method else None
        if method is None or method.working_bytes is None:
            return 0.0
        as_matrix = not (method.costly and self._has_tokens(plan))
        return method.working_bytes(plan.shape, plan.knobs) if as_matrix else 0.0

    def write(self, plan: TensorPlan, merge: Merge, out: Array) -> None:
        """Write the merged tensor into `out`: contiguous, of the plan's shape and dtype.

        `merge` is what `prepare` returned for a plan of the same tensor.

        Raises:
            CandidateError: the result is not finite; the message names the tensor.
            CheckpointError: a source is not finite, so that other merges of it will not be either.
        """
        knobs = plan.merge_knobs or {}
        try:
            if plan.factor == 1:
                merge(plan.knobs, knobs, out)
            else:
                exact = np.empty(out.shape, dtype=np.float32)
                merge(plan.knobs, knobs, exact)
                exact += plan.offset
                exact *= plan.factor
                exact -= plan.offset
                write_copy(exact, out)
        except CandidateError as error:
            raise CandidateError(f"{plan.name}: {error}") from error
        if not are_finite(out.reshape(-1)):
            raise self._blame(plan, out)

    def _stored(self, plan: TensorPlan, source: SourceTensor) -> Array:
        """Return a source's tensor in its own dtype; rows are in the order of the merged model."""
        if self.rows is None or not self._has_tokens(plan):
            return self.reader.read(source)
        from evomerge.merging.kernels.torch_views import as_array, as_tensor

        def read(parent: str) -> Tensor:
            own = self.planner.fit(parent).non_layer[plan.name]
            return as_tensor(self.reader.read(SourceTensor(parent, own)))

        return as_array(self.rows.rows(source.parent, read))

    def _blame(self, plan: TensorPlan, out: Array) -> CandidateError | CheckpointError:
        """Return an error that says why a merged tensor is not finite."""
        for source in plan.inputs:
            if bad := count_bad(self.read(plan, source)):
                return _not_finite(plan, source, bad)
        return CandidateError(
            f"{plan.name}: {plan.method} gave {count_bad(out)} NaN or infinite weights of "
            f"{math.prod(plan.shape)} from finite sources; the knobs are too large for "
            f"{plan.dtype} or have no finite result."
        )


def _not_finite(plan: TensorPlan, source: SourceTensor, bad: int) -> CheckpointError:
    return CheckpointError(
        f"{source.name}: {bad} of {math.prod(plan.shape)} weights of {source.parent!r} are NaN or "
        "infinite, and so is every merge of them; repair the file, or remove the parent."
    )


def count_bad(weights: Array) -> int:
    """Return how many stored weights are NaN or infinite in float32."""
    exact = np.empty(weights.size, dtype=np.float32)
    load(weights.reshape(-1), exact)
    return int(np.count_nonzero(~np.isfinite(exact)))
