"""The resident model: the one model in memory whose weights are replaced for each candidate.

What a merge method computes independently of knobs is kept for later candidates as far as memory
allows (see `TensorMaker`). A tensor whose plan is that of the last candidate is not written again.
"""

import json
from collections.abc import Collection, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from evomerge.device import torch_threads
from evomerge.errors import RecipeError
from evomerge.merging.architecture.attach import attach
from evomerge.merging.architecture.depth import merged_config
from evomerge.merging.architecture.layout import Layout, build_layout
from evomerge.merging.architecture.loadable import check_loadable
from evomerge.merging.architecture.loading import Placement, device_of, generation_config
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.torch_views import TORCH_DTYPES, as_array, as_tensor
from evomerge.merging.tensors.make import TensorMaker
from evomerge.merging.tensors.plan import Planner, TensorPlan
from evomerge.merging.tensors.reader import ARRAYS
from evomerge.merging.tokenizers.plan import GENERATION, TokenizerPlan
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import FLOATING
from evomerge.models.stacks import is_other_modality
from evomerge.recipe import DTYPES, Recipe

_MOST_LAYOUTS = 64
"""Largest number of modules of different configs to keep; they share the weights."""

_MOST_WITH_TARGETS = 4
"""Largest number of modules whose targets are kept; those of a mixture take some megabytes."""

_MOST_ORDERS = 256
"""Largest number of orders of blocks whose module is remembered."""


class Target(NamedTuple):
    """Memory of the model that a tensor is written to.

    Attributes:
        view: the memory in the form of the tensor.
        array: the same if a merge can write to it (contiguous, on the CPU, of its dtype), or None.
        key: equal for tensors of different modules in one memory.
        tower: whether it belongs to another modality than the language model.
    """

    view: Tensor
    array: Array | None
    key: Hashable
    tower: bool


class Prepared(NamedTuple):
    """A recipe whose weights can be written: its module, all tensors, and those that change.

    `targets` has, by name, where the tensors are written to that the module uses.
    """

    layout: Layout
    targets: Mapping[str, Target]
    plans: list[TensorPlan]
    changed: list[TensorPlan]


class Resident:
    """Builds the models of recipes, one after the other, in the same memory.

    Args:
        host, dtype: those of all recipes.
        placement: the device of the model, or a division over several, and whether it computes in
            float32: then weights are rounded to `dtype` all the same. Merging runs on the CPU, so
            that its bits do not depend on the device.
        tokenizer: that of all recipes, whose generation config the models get.
        memory: maximum bytes of prepared merges that are kept for later candidates.
        release: whether never all parents are in memory; see `TensorMaker`.
        parts: those that models get besides what transformers builds; see `attach`.

    Raises:
        CheckpointError: transformers cannot build the host, or an adapter cannot be added.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        host: str,
        dtype: str = "bfloat16",
        placement: str | Placement = "cpu",
        *,
        tokenizer: TokenizerPlan | None = None,
        memory: int = 0,
        release: bool = False,
        parts: Collection[str] = (),
    ) -> None:
        self.tokenizer = tokenizer or TokenizerPlan()
        self.dtype, self.parts = dtype, parts
        self.placement = Placement(placement) if isinstance(placement, str) else placement
        self.planner = Planner(checkpoints, host, self.tokenizer.rows)
        self.maker = TensorMaker(self.planner, memory=memory, release=release)
        self._memory: dict[Hashable, Tensor] = {}
        self._layouts: dict[str, Layout] = {}
        self._layout_of: dict[Hashable, Layout] = {}
        self._targets_of: dict[nn.Module, dict[str, Target]] = {}
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
        self._targets_of.clear()

    def prepare(self, recipe: Recipe) -> Prepared:
        """Plan a recipe, and prepare the merges of those tensors that change; no weight changes.

        A merge has two phases. Here `Method.prepare` computes what does not depend on knobs, such
        as the order of magnitudes: a `Merge`, kept for later candidates (`TensorMaker.prepare`).
        Then `write` calls the `Merge` with the knobs of this recipe (`TensorMaker.make`); one that
        there was no room to keep is prepared again there.

        Raises:
            RecipeError: the recipe does not fit the parents, or has another host or dtype.
            CheckpointError: the file of a parent was changed.
        """
        if (recipe.host, recipe.dtype) != (self.planner.host.reference, self.dtype):
            raise RecipeError(
                f"The resident model has the host {self.planner.host.reference!r} in {self.dtype}, "
                f"but the recipe has the host {recipe.host!r} in {recipe.dtype}."
            )
        self.maker.reader.check_files()
        plans = list(self.planner.plan(recipe))
        layout = self._layout(recipe, plans)
        targets = self._targets(layout, plans)
        changed = [
            plan
            for plan in plans
            if plan.name in targets and self._written.get(targets[plan.name].key) != plan
        ]
        with torch_threads(1) as usual_threads:
            self.maker.prepare(changed, usual_threads)
        return Prepared(layout, targets, plans, changed)

    def write(self, prepared: Prepared) -> nn.Module:
        """Write the weights of the recipe that `prepare` was called with last; return its model.

        Raises:
            CandidateError: a merged weight is not finite. The next `prepare` still works.
        """
        targets = prepared.targets

        def out(plan: TensorPlan) -> Array:
            array = targets[plan.name].array
            return np.empty(plan.shape, dtype=ARRAYS[plan.dtype]) if array is None else array

        def use(plan: TensorPlan, tensor: Array) -> None:
            target = targets[plan.name]
            if tensor is not target.array:
                target.view.copy_(as_tensor(tensor, plan.dtype))
            self._written[target.key] = plan

        self.module = None
        if any(targets[plan.name].tower for plan in prepared.changed):
            self.tower = object()
        for plan in prepared.changed:
            self._written.pop(targets[plan.name].key, None)
        with torch_threads(1) as usual_threads:
            self.maker.make(prepared.changed, out, use, usual_threads)
        self.module = prepared.layout.module
        return self.module

    def _targets(self, layout: Layout, plans: Iterable[TensorPlan]) -> Mapping[str, Target]:
        """Return where tensors are written to in a module, by name, of those that it uses."""
        if layout.module not in self._targets_of and len(self._targets_of) == _MOST_WITH_TARGETS:
            self._targets_of.clear()
        locations, targets = layout.locations, self._targets_of.setdefault(layout.module, {})
        new = [plan for plan in plans if plan.name in locations and plan.name not in targets]
        weights = _weights(layout.module) if new else {}
        for plan in new:
            location = locations[plan.name]
            weight = weights[location.parameter].data
            view = location.view(weight)
            direct = view.is_contiguous() and view.device.type == "cpu"
            direct = direct and view.dtype == TORCH_DTYPES[plan.dtype]
            targets[plan.name] = Target(
                view,
                as_array(view) if direct else None,
                (location, weight.data_ptr()),
                is_other_modality(plan.name),
            )
        return targets

    def _layout(self, recipe: Recipe, plans: list[TensorPlan]) -> Layout:
        """Return the module for the order in which a recipe has blocks."""
        order = tuple(
            (prefix, *((source.parent, source.layer) for it in layers for source in it.sources[:1]))
            for prefix, layers in recipe.layers.items()
        )
        if order not in self._layout_of:
            vocabulary, checkpoints = self.tokenizer.rows, self.planner.checkpoints
            data = merged_config(recipe, checkpoints, vocabulary=vocabulary)
            key = json.dumps(data, sort_keys=True)
            if key not in self._layouts:
                check_loadable(data, recipe, checkpoints, vocabulary)
                self._layouts[key] = self._build(data, plans)
                if len(self._layouts) > _MOST_LAYOUTS:
                    self._layouts.pop(next(iter(self._layouts)))
                    self._layout_of.clear()
            if len(self._layout_of) == _MOST_ORDERS:
                self._layout_of.clear()
            self._layout_of[order] = self._layouts[key]
        return self._layout_of[order]

    def _build(self, data: Mapping[str, Any], plans: list[TensorPlan]) -> Layout:
        host = self.planner.host
        shapes = {
            plan.name: plan.shape
            for plan in plans
            if plan.dtype in FLOATING and not host.module_of(plan.name)
        }
        constants = {
            # A copy: they become buffers of the model, and the file that is mapped is read-only.
            plan.name: as_tensor(self.maker.copy(plan), plan.dtype).clone()
            for plan in plans
            if plan.dtype not in FLOATING
        }
        dtype = "float32" if self.placement.float32 else self.dtype
        layout = build_layout(data, shapes, constants, TORCH_DTYPES[DTYPES[dtype]])
        if host.modalities:  # where its processor is
            layout.module.name_or_path = str(host.folder)  # type: ignore[assignment]
        added = attach(layout.module, host, self.parts)
        layout = layout._replace(locations={**layout.locations, **added})
        generation = self.tokenizer.files.get(GENERATION, host.generation)
        settings = generation_config(data, generation)
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
