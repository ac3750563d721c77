"""The resident model: the one model in memory whose weights are replaced for each candidate.

What a merge method computes independently of knobs is kept for later candidates as far as memory
allows (`PreparedMerges`). A tensor whose plan is that of the last candidate is not written again.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from math import prod
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from evomerge.errors import RecipeError
from evomerge.merging.architecture.depth import merged_config
from evomerge.merging.architecture.layout import Layout, build_layout
from evomerge.merging.architecture.loadable import check_loadable
from evomerge.merging.architecture.loading import generation_config
from evomerge.merging.architecture.modules import attach_modules
from evomerge.merging.architecture.placement import Placement, device_of
from evomerge.merging.architecture.probe import Location
from evomerge.merging.kernels.torch_views import TORCH_DTYPES, as_array, as_tensor, one_thread
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Merge
from evomerge.merging.tensors.maker import TensorMaker
from evomerge.merging.tensors.plan import STORED, Planner, TensorPlan
from evomerge.merging.tensors.reader import Patch, TensorReader
from evomerge.merging.tensors.threads import for_each
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import FLOATING, WIDTHS
from evomerge.models.stacks import is_other_modality
from evomerge.recipe import Recipe

_MOST_LAYOUTS = 64
"""Largest number of modules of different configs to keep; they share the weights."""

_OVERHEAD = 2048
"""Approximate bytes of Python objects in a prepared merge."""

Report: TypeAlias = Callable[[str, int, int], None]
"""Is told how far a preparation is: names of the methods, tensors that are done, all tensors."""


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
            found = self._merges.pop(key, None)
            if found is None:
                return None
            self._merges[key] = (*found[:2], self._candidate)
            return found[0]

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


class Prepared(NamedTuple):
    """A recipe whose weights can be written: its module, all tensors, and those that change."""

    layout: Layout
    plans: list[TensorPlan]
    changed: list[TensorPlan]


class Resident:
    """Builds the models of recipes, one after the other, in the same memory.

    Args:
        host, dtype: those of all recipes.
        place: the device of the model, or a placement on several. Merging runs on the CPU, so that
            its bits do not depend on the device.
        memory: maximum bytes of prepared merges that are kept for later candidates.
        rows: the merged vocabulary if rows of embeddings and head are matched by token, else None.
        release: whether pages of the parents' files are given back as soon as a tensor is merged,
            so that never all parents are in memory.
        generation: text of the `generation_config.json` of the merged models; None: the host's.
        encodes: whether the models get the host's modules of sentence-transformers.

    Raises:
        CheckpointError: transformers cannot build the host.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        host: str,
        dtype: str = "bfloat16",
        place: str | Placement = "cpu",
        *,
        memory: int = 0,
        patches: Mapping[str, Patch] | None = None,
        rows: MatchedRows | None = None,
        release: bool = False,
        generation: str | None = None,
        encodes: bool = False,
    ) -> None:
        self.checkpoints, self.dtype, self.rows = checkpoints, dtype, rows
        self.release, self.generation, self.encodes = release, generation, encodes
        self.placement = Placement(place) if isinstance(place, str) else place
        self.planner = Planner(checkpoints, host)
        self.maker = TensorMaker(self.planner, TensorReader(checkpoints, patches), rows)
        self._prepared = PreparedMerges(memory)
        self._memory: dict[Hashable, Tensor] = {}
        self._layouts: dict[str, Layout] = {}
        self._written: dict[Hashable, TensorPlan] = {}
        self.module: nn.Module | None = None
        """The model as the last `apply` left it; None if there is none, or if it failed."""
        self.tower = object()
        """Stands for the weights of vision and projector: a new object when they are written."""

    def apply(self, recipe: Recipe) -> nn.Module:
        """Build the model of a recipe; this overwrites the weights of the previous model.

        It is in evaluation mode, on its device, and the same object for all recipes of one depth.

        Raises:
            RecipeError, CandidateError: as `prepare` and `write`.
        """
        return self.write(self.prepare(recipe))

    def forget(self) -> None:
        """Write all tensors of the next model: somebody may have changed those of the last."""
        self._written.clear()

    def prepare(self, recipe: Recipe, report: Report | None = None) -> Prepared:
        """Compute and keep what the merges of a recipe need and no earlier candidate has needed.

        What there is no room for is computed by `write`. The model does not change. `report` is
        called before the first tensor and after each one, by one thread at a time.

        Raises:
            RecipeError: the recipe does not fit the parents, or has another host or dtype.
        """
        if recipe.dtype != self.dtype or recipe.host != self.planner.host.reference:
            raise RecipeError(
                f"The resident model has the host {self.planner.host.reference!r} in {self.dtype}, "
                f"but the recipe has the host {recipe.host!r} in {recipe.dtype}."
            )
        plans = list(self.planner.plan(recipe, self.rows))
        layout = self._layout(recipe, plans)
        self._prepared.begin_candidate()
        weights = _weights(layout.module)
        changed = [
            plan
            for plan in plans
            if (location := layout.locations.get(plan.name)) is not None
            and self._written.get(_slot(location, weights)) != plan
        ]
        new = [plan for plan in changed if plan.method and self._prepared.find(_key(plan)) is None]
        methods = ", ".join(sorted({plan.method or "" for plan in new}))
        lock, done = threading.Lock(), count()

        def tell() -> None:
            with lock:
                if report is not None and new:
                    report(methods, next(done), len(new))

        def keep(plan: TensorPlan) -> None:
            make = partial(self.maker.prepare, plan, reuse=True)
            self._prepared.keep(_key(plan), self._size(plan), make)
            if self.release:
                self.maker.release(plan)
            tell()

        tell()
        parallel_map(keep, new)
        return Prepared(layout, plans, changed)

    def write(self, prepared: Prepared) -> nn.Module:
        """Write the weights of the recipe that `prepare` was called with last; return its model.

        Raises:
            CandidateError: a merged weight is not finite. The next `prepare` still works.
        """
        layout, weights = prepared.layout, _weights(prepared.layout.module)

        def write(plan: TensorPlan) -> None:
            location = layout.locations[plan.name]
            self._write(plan, location.view(weights[location.parameter].data, plan.shape))
            if self.release:
                self.maker.release(plan)
            self._written[_slot(location, weights)] = plan

        self.module = None
        if any(is_other_modality(plan.name) for plan in prepared.changed):
            self.tower = object()
        for plan in prepared.changed:
            self._written.pop(_slot(layout.locations[plan.name], weights), None)
        parallel_map(write, prepared.changed)
        self.module = layout.module
        return layout.module

    def _write(self, plan: TensorPlan, target: Tensor) -> None:
        if plan.method is None:
            target.copy_(as_tensor(self.maker.read(plan, plan.sources[0]), plan.dtype))
            return
        dtype = TORCH_DTYPES[plan.dtype]
        direct = target.is_contiguous() and target.dtype == dtype and target.device.type == "cpu"
        out = target if direct else torch.empty(plan.shape, dtype=dtype)
        self.maker.write(plan, self.merge_of(plan), as_array(out))
        if not direct:
            target.copy_(out)

    def merge_of(self, plan: TensorPlan) -> Merge:
        """Return the prepared merge of a tensor: the one that is kept, or a new one."""
        return self._prepared.find(_key(plan)) or self.maker.prepare(plan, reuse=False)

    def _size(self, plan: TensorPlan) -> int:
        """Return the bytes that a prepared merge takes, with copies of sources if it has some."""
        elements = prod(plan.shape)
        held = get_method(plan.method or "").cached_bytes * elements * len(plan.sources)
        copies = sum(self.maker.is_copied(plan, item) for item in plan.inputs)
        return int(held) + copies * elements * WIDTHS[plan.dtype] + _OVERHEAD

    def _layout(self, recipe: Recipe, plans: list[TensorPlan]) -> Layout:
        data = merged_config(recipe, self.checkpoints, vocabulary=self.rows)
        key = json.dumps(data, sort_keys=True)
        if key not in self._layouts:
            check_loadable(data, recipe, self.checkpoints, self.rows)
            self._layouts[key] = self._build(data, plans)
            if len(self._layouts) > _MOST_LAYOUTS:
                self._layouts.pop(next(iter(self._layouts)))
        return self._layouts[key]

    def _build(self, data: Mapping[str, Any], plans: list[TensorPlan]) -> Layout:
        host = self.planner.host
        shapes = {
            plan.name: plan.shape
            for plan in plans
            if plan.dtype in FLOATING and not host.module_of(plan.name)
        }
        constants = {
            # A copy: they become buffers of the model, and the file that is mapped is read-only.
            plan.name: as_tensor(self.maker.read(plan, plan.sources[0]), plan.dtype).clone()
            for plan in plans
            if plan.dtype not in FLOATING
        }
        layout = build_layout(data, shapes, constants, TORCH_DTYPES[STORED[self.dtype]])
        if host.modalities:  # where its processor is
            layout.module.name_or_path = str(host.folder)  # type: ignore[assignment]
        if self.encodes:
            of_modules = attach_modules(layout.module, host)
            layout = layout._replace(locations={**layout.locations, **of_modules})
        settings = generation_config(data, self.generation or host.generation)
        if settings is not None and layout.module.can_generate():  # type: ignore[operator]
            layout.module.generation_config = settings
        devices, weights = self.placement.device_map(layout.module), _weights(layout.module)
        for name in {location.parameter for location in layout.locations.values()}:
            weight, device = weights[name], device_of(name, devices)
            key = (name, weight.shape, weight.dtype, device)
            if key not in self._memory:  # which modules of all depths share
                self._memory[key] = torch.empty(weight.shape, dtype=weight.dtype, device=device)
            weight.data = self._memory[key]
        self.placement.settle(layout.module)
        return layout


def _weights(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_buffers()), **dict(module.named_parameters())}


def _slot(location: Location, weights: Mapping[str, Tensor]) -> Hashable:
    """Return a key of the memory that a tensor is written to."""
    return location, weights[location.parameter].data_ptr()


def parallel_map(work: Callable[[Any], None], items: Iterable[Any]) -> None:
    """Call `work` on every item, in as many threads as torch is set to use; each uses one."""
    threads = torch.get_num_threads()
    with one_thread():
        for_each(work, items, threads)


def _key(plan: TensorPlan) -> Hashable:
    """Return a key of all that a prepared merge depends on."""
    return (plan.method, plan.sources, plan.base, plan.seed, plan.name)
