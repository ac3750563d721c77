"""What a merge changes in its base, as a LoRA adapter: the change of each matrix, cut to a rank.

If the merge is linear in adapters of the base, a change has no larger rank than these have
together, so nothing is cut. Vectors (norms, biases) are kept whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.merging.adapter_file import AdapterFile, Part
from evomerge.merging.architecture.loading import transformers_config
from evomerge.merging.architecture.naming import with_host_names
from evomerge.merging.backend import unchanged
from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.members import Members
from evomerge.merging.tensors.adapters import adapter_patches
from evomerge.merging.tensors.maker import TensorMaker, WholeAngles
from evomerge.merging.tensors.plan import Planner, TensorPlan
from evomerge.merging.tensors.reader import DTYPES, TensorReader
from evomerge.merging.tensors.threads import count_threads
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap, check_fit, normal
from evomerge.recipe import Recipe

_NO_SETTINGS = {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"}
"""Keys of a config that say nothing of what a model computes."""


def extracted(
    recipe: Recipe,
    base: str,
    checkpoints: Mapping[str, Checkpoint],
    rank: int,
    *,
    whole: Collection[str] = (),
    without: Collection[Part] = (),
) -> AdapterFile:
    """Return the adapter that turns a base into the model of a recipe, computed in float32.

    Args:
        base: reference of the model that the adapter is for; one of the checkpoints.
        rank, whole, without: see `AdapterFile`.

    Raises:
        CheckpointError: the merge differs from the base in what no adapter can change: its number
            of layers, its vocabulary, tensors that are neither matrices of layers nor vectors.
        CandidateError: a merged weight is not finite.
    """
    recipe = replace(recipe, dtype="float32")
    checkpoints = {**checkpoints, base: with_host_names(checkpoints, recipe.host)[base]}
    _check_shape(recipe, base, checkpoints)
    host, patches = checkpoints[recipe.host], adapter_patches(checkpoints)
    members = Members(checkpoints, None, None, patches) if recipe.members else None
    try:
        every = {**checkpoints, **(members.open(recipe) if members else {})}
        planner = Planner(every, recipe.host)
        maker = TensorMaker(planner, TensorReader(every, patches))
        plans = WholeAngles().complete(planner.plan(recipe), maker, count_threads())
        own = Planner(every, base)
        before = {
            normal(item.name, own.host): item for item in own.plan(unchanged(own.host, "float32"))
        }
        adapter = AdapterFile(host, rank, whole=whole, without=without)
        for plan in plans:
            own_plan = before.get(normal(plan.name, host))
            if own_plan is None or own_plan.shape != plan.shape:
                raise CheckpointError(
                    f"The merge has {plan.name!r} {list(plan.shape)}, which {base!r} lacks; "
                    "give the base that it was made from, or write a checkpoint."
                )
            copied = plan.method in (None, "passthrough") and plan.factor == 1
            if not copied or plan.sources != own_plan.sources:
                old, new = _made(maker, own_plan), _made(maker, plan)
                if not torch.equal(old, new):
                    adapter.add(plan.name, old, new)
            for source in (*plan.inputs, *own_plan.inputs):
                maker.reader.release(source)
        if not adapter.targets:
            raise CheckpointError(
                f"The merge changes no matrix in {base!r} that LoRA can change, so there is no "
                "adapter to write; give another base or model."
            )
        adapter.finish(lambda name: _made(maker, before[normal(name, host)]))
    finally:
        if members:
            members.close()
    return adapter


def other_settings(host: Checkpoint, base: Checkpoint) -> list[str]:
    """Return the keys of a model's config whose values are not those of its base."""
    ours, theirs = (transformers_config(item.config).to_dict() for item in (host, base))
    different = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
    return sorted(different - _NO_SETTINGS)


def _check_shape(recipe: Recipe, base: str, checkpoints: Mapping[str, Checkpoint]) -> None:
    host, own = checkpoints[recipe.host], checkpoints[base]
    heads = [item.head is not None and not item.tied for item in (host, own)]
    if heads[0] != heads[1]:
        what = [
            f"has {'a head of its own' if head else 'its embeddings as head'}" for head in heads
        ]
        raise CheckpointError(
            f"The merge {what[0]} and {base!r} {what[1]}, but an adapter keeps the kind of head; "
            "write a checkpoint instead."
        )
    if host.modalities.keys() != own.modalities.keys():
        kinds = [", ".join(item.modalities) or "no vision tower" for item in (host, own)]
        raise CheckpointError(
            f"The merge has {kinds[0]} and {base!r} {kinds[1]}, but an adapter is loaded on a "
            "model of its own kind; write a checkpoint instead."
        )
    check_fit(host, [own], vocabularies=host.vocabulary == own.vocabulary)
    for prefix, blocks in recipe.layers.items():
        count = len(TensorNameMap(host, own).stacks[prefix])
        if len(blocks) != count:
            raise CheckpointError(
                f"The merge has {len(blocks)} layers and {base!r} has {count}, but an adapter "
                "keeps their number; write a checkpoint instead."
            )
    if plan_tokenizer(recipe, checkpoints).rows is not None or host.vocabulary != own.vocabulary:
        raise CheckpointError(
            f"The merge has another vocabulary than {base!r}, but an adapter keeps that of its "
            "base; write a checkpoint instead."
        )


def _made(maker: TensorMaker, plan: TensorPlan) -> Tensor:
    """Return a tensor of a plan, float32."""
    if plan.method is None:
        array = maker.read(plan, plan.sources[0])
    else:
        array = np.empty(plan.shape, dtype=DTYPES[plan.dtype])
        maker.write(plan, maker.prepare(plan, reuse=False), array)
    return as_tensor(array, plan.dtype).float()
