"""The functions of this package that others call: build and load models and tokenizers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.device import count_threads
from evomerge.errors import CheckpointError, blaming
from evomerge.merging.tensors.make import TensorMaker, for_each
from evomerge.merging.tensors.plan import Planner
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.merging.writer import stored_dtype, unchanged
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import check_causal
from evomerge.recipe import Recipe
from evomerge.run.atomic import TemporaryFolder

if TYPE_CHECKING:
    from evomerge.merging.architecture.loading import Placement


def check_finite(checkpoints: Mapping[str, Checkpoint], recipes: Sequence[Recipe]) -> None:
    """Raise `CheckpointError` unless all weights that recipes are made from are finite numbers.

    Each is read once, and no parent stays in memory. The recipes have one host and tokenizer.
    """
    rows = plan_tokenizer(recipes[0], checkpoints).rows
    planner = Planner(checkpoints, recipes[0].host, rows)
    plans = (plan for recipe in recipes for plan in planner.plan(recipe))
    sources = dict.fromkeys(source for plan in plans for source in plan.inputs)
    for_each(TensorMaker(planner).check_source, sources, count_threads())


def tokenizer(checkpoints: Mapping[str, Checkpoint], recipe: Recipe) -> Any:
    """Return the tokenizer of a recipe's model; `CheckpointError` as for `load_tokenizer`."""
    plan = plan_tokenizer(recipe, checkpoints)
    host = checkpoints[recipe.host]
    if not plan.files:
        return tokenizer_of(host)
    with TemporaryFolder() as folder:
        for file in host.companions:
            if file.parent == host.folder and file.name not in plan.dropped:
                shutil.copyfile(file, folder / file.name)
        (folder / "config.json").write_text(json.dumps(host.config), encoding="utf-8")
        for file_name, text in plan.files.items():
            (folder / file_name).write_text(text, encoding="utf-8")
        return load_tokenizer(folder, recipe.tokenizer)


def tokenizer_of(checkpoint: Checkpoint) -> Any:
    """Load a parent's tokenizer; see `load_tokenizer`."""
    return load_tokenizer(checkpoint.folder, checkpoint.reference)


def load_tokenizer(folder: Path, reference: str) -> Any:
    """Load the tokenizer in the folder of the parent `reference`; code in it is never run.

    `CheckpointError`: transformers cannot load one.
    """
    from transformers import AutoTokenizer

    with blaming(
        CheckpointError,
        f"{reference!r} has no tokenizer that transformers can load ({{reason}}); correct its "
        "files, or put tokenizer.json and tokenizer_config.json beside its weights.",
    ):
        loaded = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        loaded("")  # some settings of a wrong type are noticed by the first text only
    return loaded


def load(
    checkpoint: Checkpoint,
    placement: str | Placement,
    dtype: str = "bfloat16",
    *,
    causal: bool = True,
    parts: Collection[str] = (),
) -> Any:
    """Load a model for scoring.

    One with an adapter is built as in a search, in `dtype`, and one in FP8 as well, in the dtype of
    its config; another is loaded by transformers, in the dtype that it is stored in. `causal`:
    whether it must be a model that writes texts, as lm-eval's tasks need it. `parts`: those that it
    gets besides what transformers builds.

    Raises:
        CheckpointError: it does not write texts though it must, transformers cannot load it, it
            lacks weights, or the adapter does not fit.
    """
    if causal:
        check_causal(checkpoint)
    if checkpoint.adapter is not None or checkpoint.is_in_fp8:
        from evomerge.merging.resident import Resident

        recipe = unchanged(checkpoint, stored_dtype(checkpoint, dtype))
        parents = {checkpoint.reference: checkpoint}
        return Resident(parents, recipe.host, recipe.dtype, placement, parts=parts).apply(recipe)
    from evomerge.compat.transformers import quiet
    from evomerge.merging.architecture.attach import attach
    from evomerge.merging.architecture.loading import (
        Placement,
        model_class,
        transformers_config,
    )

    # The file may name an attention, even one whose code transformers would download; and from 5.25
    # on, transformers takes kernels from the Hub by itself.
    config = transformers_config(checkpoint.config)
    kind = model_class(config)
    how = {"config": config, "trust_remote_code": False, "use_kernels": False, "dtype": "auto"}
    why = f"{checkpoint.reference!r} cannot be loaded ({{reason}})."
    with blaming(CheckpointError, why), quiet():
        loaded: Any = kind.from_pretrained(checkpoint.folder, output_loading_info=True, **how)
    model, report = loaded
    if report["missing_keys"]:
        raise CheckpointError(
            f"{checkpoint.reference!r} lacks the weight {min(report['missing_keys'])!r}, which "
            f"{type(model).__name__} needs (it would be random); copy its weight files again."
        )
    attach(model, checkpoint, parts)
    (Placement(placement) if isinstance(placement, str) else placement).settle(model)
    return model.requires_grad_(False).train(False)
