"""Making merged tensors: one loop for the model in memory and for checkpoints, with threads.

A merge is many short operations, so each thread works on a tensor of its own. If each operation
were divided among threads, every one would wait for the slowest thread: on two busy cores, this
took 26 s instead of 0.09 s for 30 M weights.
"""

import math
import threading
from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from evomerge.errors import CandidateError, CheckpointError
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.noise import Noise
from evomerge.merging.kernels.passes import count_bad, write_copy
from evomerge.merging.methods.method import Merge, Operands
from evomerge.merging.tensors.plan import Planner, SourceTensor, TensorPlan
from evomerge.merging.tensors.reader import ARRAYS, TensorReader, matched_rows
from evomerge.models.safetensors import WIDTHS

T = TypeVar("T")

MOST_THREADS = 8
"""Largest number of threads; more would only wait for memory and for each other."""

_OVERHEAD = 2048
"""Approximate bytes of Python objects in a prepared merge."""


class TensorMaker:
    """Makes the tensors of merged models as the plans of one planner say.

    Args:
        memory: maximum bytes of prepared merges that are kept for later candidates.
        release: whether pages of the parents' files are given back as soon as a tensor is merged,
            so that never all parents are in memory.
    """

    def __init__(self, planner: Planner, *, memory: int = 0, release: bool = False) -> None:
        self.reader = TensorReader(planner.checkpoints, matched_rows(planner))
        self._method = planner.method
        self.prepared, self.release = PreparedMerges(memory), release

    def make(
        self,
        plans: Iterable[TensorPlan],
        out: Callable[[TensorPlan], Array],
        use: Callable[[TensorPlan, Array], None],
        threads: int,
    ) -> None:
        """Make tensors, and call `use` with each; both are done by the same thread.

        A merged tensor is written to what `out` returns, contiguous and of the plan's shape and
        dtype. A copied one is memory that must not be written to.

        Raises:
            CandidateError: a merged tensor is not finite; the message names it.
            CheckpointError: a source is not finite, so that other merges of it will not be either.
        """

        def make(plan: TensorPlan) -> None:
            if plan.method is None:
                use(plan, self.copy(plan))
            else:
                merged = out(plan)
                self._write(plan, merged)
                use(plan, merged)
            self._free(plan)

        for_each(make, plans, threads)

    def prepare(self, plans: Iterable[TensorPlan], threads: int) -> None:
        """Prepare the merges of a new candidate and keep them, as far as there is room."""
        self.prepared.begin_candidate()
        new = [it for it in plans if it.method and self.prepared.find(_key(it)) is None]

        def keep(plan: TensorPlan) -> None:
            prepare = partial(self._prepare, plan, reuse=True)
            self.prepared.keep(_key(plan), self._held_bytes(plan), prepare)
            self._free(plan)

        for_each(keep, new, threads)

    def copy(self, plan: TensorPlan) -> Array:
        """Return the tensor of a plan without a method, to be read only."""
        array = self.reader.read(plan.sources[0])
        if array.dtype == ARRAYS[plan.dtype]:
            return array
        copied = np.empty(plan.shape, dtype=ARRAYS[plan.dtype])
        write_copy(array, copied)  # a tensor with an adapter's change is float32
        return copied

    def merge_of(self, plan: TensorPlan) -> Merge:
        """Return the prepared merge of a tensor: the one that is kept, or a new one."""
        return self.prepared.find(_key(plan)) or self._prepare(plan, reuse=False)

    def check_source(self, source: SourceTensor) -> None:
        """Raise `CheckpointError` unless the weights of a source are finite; free its memory."""
        if self.reader.checkpoints[source.parent].tensors[source.name].floating:
            weights = self.reader.read(source)
            if bad := count_bad(weights.reshape(-1)):
                raise CheckpointError(
                    f"{source.name}: {bad} of {weights.size} weights of {source.parent!r} are NaN "
                    "or infinite, and so is every merge of them; repair the file, or remove the "
                    "parent."
                )
        self.reader.release(source)

    def working_bytes(self, plan: TensorPlan) -> int:
        """Return about how many bytes the making of a tensor takes: copies of sources, result."""
        copies = sum(map(self.reader.is_copied, plan.inputs))
        taken = (1 + copies) * math.prod(plan.shape) * WIDTHS[plan.dtype]
        method = self._method(plan.method or "passthrough")
        if method.costly and plan.tokens:
            return taken
        each = (1 + len(plan.sources)) * math.prod(plan.shape)
        return taken + int(method.working_bytes * each)

    def _prepare(self, plan: TensorPlan, *, reuse: bool) -> Merge:
        """Read the sources and compute what does not depend on knobs; the plan is no copy."""
        method = self._method(plan.method or "")
        noise = [Noise(plan.seed, item.parent, item.name) for item in plan.sources]
        operands = Operands(
            [self.reader.read(item) for item in plan.sources],
            self.reader.read(plan.base) if plan.base else None,
            noise if method.random else (),
            reuse,
            plan.tokens,
        )
        return method.prepare(operands)

    def _held_bytes(self, plan: TensorPlan) -> int:
        """Return the bytes that a prepared merge takes, with copies of sources if it has some."""
        elements = math.prod(plan.shape)
        held = self._method(plan.method or "").cached_bytes * elements * len(plan.sources)
        copies = sum(map(self.reader.is_copied, plan.inputs))
        return int(held) + copies * elements * WIDTHS[plan.dtype] + _OVERHEAD

    def _write(self, plan: TensorPlan, out: Array) -> None:
        """Write a merged tensor into `out`."""
        merge, knobs = self.merge_of(plan), plan.merge_knobs or {}
        exact = out if plan.factor == 1 else np.empty(out.shape, dtype=np.float32)
        # NaN in every float dtype, so that no weight stays that a method does not write. The loops
        # of evomerge, which are as fast as this, write all.
        unwritten = None if self._method(plan.method or "").torch else 1
        exact.reshape(-1)[:unwritten].view(np.uint8)[:] = 255
        try:
            merge(plan.knobs, knobs, exact)
            if plan.factor != 1:
                exact += plan.offset
                exact *= plan.factor
                exact -= plan.offset
                write_copy(exact, out)
        except CandidateError as error:
            raise CandidateError(f"{plan.name}: {error}") from error
        if bad := count_bad(out.reshape(-1)):
            for source in plan.inputs:
                self.check_source(source)
            raise CandidateError(
                f"{plan.name}: {plan.method} gave {bad} NaN or infinite weights of {out.size} from "
                f"finite sources; the knobs are too large for {plan.dtype} or have no finite "
                "result, or it does not write all of `out`."
            )

    def _free(self, plan: TensorPlan) -> None:
        for source in plan.inputs if self.release else ():
            self.reader.release(source)


def _key(plan: TensorPlan) -> Hashable:
    """Return a key of all that a prepared merge depends on."""
    return (plan.method, plan.sources, plan.base, plan.seed, plan.name)


@dataclass
class PreparedMerges:
    """Prepared merges by key, at most `room` bytes; threads may use it at the same time.

    If there is no room, merges that neither this candidate nor the one before has used are dropped,
    the least recently used first. So if all candidates use the same merges, the same ones are
    always kept, in whatever order threads come to them.
    """

    room: int
    _merges: dict[object, tuple[Merge, int, int]] = field(default_factory=dict)
    _used: int = 0
    _candidate: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_candidate(self) -> None:
        """Note that the following merges belong to a new candidate."""
        self._candidate += 1

    def find(self, key: object) -> Merge | None:
        """Return the merge that is kept under a key, or None; note that this candidate uses it."""
        with self._lock:
            entry = self._merges.pop(key, None)
            if entry is None:
                return None
            self._merges[key] = (*entry[:2], self._candidate)
            return entry[0]

    def keep(self, key: object, size: int, prepare: Callable[[], Merge]) -> None:
        """Prepare a merge that takes `size` bytes and keep it, if there is room for it."""
        with self._lock:
            for old, (_, taken, candidate) in list(self._merges.items()):
                if self._used + size <= self.room or candidate >= self._candidate - 1:
                    break
                del self._merges[old]
                self._used -= taken
            if self._used + size > self.room:
                return
            self._used += size
        try:
            merge = prepare()
        except BaseException:
            with self._lock:
                self._used -= size
            raise
        with self._lock:
            self._merges[key] = (merge, size, self._candidate)


def for_each(work: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    """Call `work` on every item, in a number of threads, but at most `MOST_THREADS`.

    Items are begun in their order. After an exception no further item is begun; then the exception
    of the first failed item, in the order of items, is raised.
    """
    if threads == 1:
        for item in items:
            work(item)
        return
    failed = threading.Event()

    def attempt(item: T) -> None:
        if failed.is_set():
            return
        try:
            work(item)
        except BaseException:
            failed.set()
            raise

    pool = ThreadPoolExecutor(min(threads, MOST_THREADS), "evomerge-merge")
    try:
        for future in [pool.submit(attempt, item) for item in items]:
            future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
