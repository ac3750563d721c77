"""Making one merged tensor, in the same way for the model in memory and for checkpoints."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from evomerge.errors import CandidateError, CheckpointError
from evomerge.merging.kernels.compiled import are_finite, stored
from evomerge.merging.kernels.noise import Noise
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Merge
from evomerge.merging.tensors.plan import Planner, SourceTensor, TensorPlan
from evomerge.merging.tensors.reader import DTYPES, Reader, TokenRows


class TensorMaker:
    """Makes the tensors of the merged model as their plans say.

    Args:
        planner: knows which tensors of the parents correspond to each other.
        reader: reads the parents' tensors.
        rows: the merged vocabulary if rows of embeddings and head are matched by token, else None.
    """

    def __init__(self, planner: Planner, reader: Reader, rows: TokenRows | None = None) -> None:
        self.planner, self.reader, self.rows = planner, reader, rows

    def read(self, plan: TensorPlan, source: SourceTensor) -> Tensor:
        """Return a source's tensor in the shape of the merged tensor; it must not be written to.

        Raises:
            CheckpointError: the tensor has another shape than planned.
        """
        host = self.planner.host
        if self.rows is not None and plan.name in host.token_tensors:
            tensor = self.rows.rows(
                source.parent, plan.name, lambda parent: self._counterpart(plan.name, parent)
            )
        else:
            tensor = self.reader.read(source)
        if tuple(tensor.shape) != plan.shape:
            raise CheckpointError(
                f"Tensor {source.name!r} of {source.parent!r} has shape {list(tensor.shape)}; "
                f"the merged model needs {list(plan.shape)}."
            )
        if plan.method is None:
            return tensor.to(DTYPES[plan.dtype])  # a tensor with an adapter's change is float32
        return tensor

    def is_copied(self, plan: TensorPlan, source: SourceTensor) -> bool:
        """Whether `read` returns memory of its own, not a view of a mapped file."""
        by_token = self.rows is not None and plan.name in self.planner.host.token_tensors
        return by_token or source.parent in self.reader.patches

    def prepare(self, plan: TensorPlan, *, reuse: bool) -> Merge:
        """Read the sources and compute what does not depend on knobs (see `Method.prepare`).

        Raises:
            ValueError: the plan is a copy.
        """
        if plan.method is None:
            raise ValueError(f"{plan.name} is copied, not merged")
        method = get_method(plan.method)
        noise = [Noise(plan.seed, item.parent, item.name) for item in plan.sources]
        prepare = method.prepare
        if plan.name in self.planner.host.token_tensors:
            prepare = method.prepare_tokens or prepare
        return prepare(
            [self.read(plan, item) for item in plan.sources],
            self.read(plan, plan.base) if plan.base else None,
            noise if method.random else (),
            reuse=reuse,
        )

    def working_bytes(self, plan: TensorPlan) -> float:
        """Return the bytes that the merge of a tensor takes at most, if they grow with it."""
        if plan.method is None:
            return 0.0
        method = get_method(plan.method)
        of_tokens = method.prepare_tokens and plan.name in self.planner.host.token_tensors
        if method.working_bytes is None or of_tokens:
            return 0.0
        return method.working_bytes(plan.shape, plan.knobs)

    def write(self, plan: TensorPlan, merge: Merge, out: Tensor) -> None:
        """Write the merged tensor into `out`.

        Args:
            plan: how the tensor is made.
            merge: what `prepare` returned for a plan of the same tensor.
            out: a contiguous tensor of the plan's shape and dtype.

        Raises:
            CandidateError: the result is not finite; the message names the tensor.
            CheckpointError: a source is not finite, so that other merges of it will not be either.
        """
        knobs = plan.merge_knobs or {}
        try:
            if plan.factor == 1:
                merge(plan.knobs, knobs, out)
            else:
                exact = torch.empty(out.shape, dtype=torch.float32, device=out.device)
                merge(plan.knobs, knobs, exact)
                out.copy_(exact.add_(plan.offset).mul_(plan.factor).sub_(plan.offset))
        except CandidateError as error:
            raise CandidateError(f"{plan.name}: {error}") from error
        if not is_finite(out):
            raise self._blame(plan, out)

    def _counterpart(self, name: str, parent: str) -> Tensor:
        own = self.planner.fit(parent).outside[name]
        return self.reader.read(SourceTensor(parent, own))

    def _blame(self, plan: TensorPlan, out: Tensor) -> CandidateError | CheckpointError:
        """Return an error that says why a merged tensor is not finite."""
        for source in plan.inputs:
            bad = count_bad(self.read(plan, source))
            if bad:
                return CheckpointError(
                    f"{plan.name}: {bad} of {math.prod(plan.shape)} weights of {source.parent!r} "
                    "are NaN or infinite, and so is every merge of them; repair the file, or "
                    "remove the parent."
                )
        return CandidateError(
            f"{plan.name}: {plan.method} gave {count_bad(out)} NaN or infinite weights of "
            f"{math.prod(plan.shape)} from finite sources; the knobs are too large for "
            f"{plan.dtype} or have no finite result."
        )


def is_finite(tensor: Tensor) -> bool:
    """Whether no weight is NaN or infinite."""
    if not tensor.is_floating_point():
        return True
    if tensor.is_cpu and tensor.dtype in (torch.bfloat16, torch.float16, torch.float32):
        return are_finite(stored(tensor))
    return count_bad(tensor) == 0


def count_bad(tensor: Tensor) -> int:
    """Return how many elements are NaN or infinite."""
    return int((~torch.isfinite(tensor)).sum())
