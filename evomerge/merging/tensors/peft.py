"""Reading the folder of a PEFT adapter: its config, and which tensors of the model it changes.

A folder has `adapter_config.json` and `adapter_model.safetensors`. What is not supported raises an
error that names it, so that no part of an adapter is ignored silently.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import normal
from evomerge.models.safetensors import TensorInfo
from evomerge.parsing.values import Values, shown

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_UNSUPPORTED_KEYS = (
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
    "megatron_config",
)
_VALUES = Values(CheckpointError)
_KEEPING_BASE = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` with which PEFT does not change the model's own weights."""

_PATIENCE = 10.0  # seconds; a thousand names and patterns take about one

_COUNT = re.compile(r"[{,]\s*([0-9]+)")
_MOST_REPEATS = 10_000  # `regex` writes some of them out
_LONGEST = 2_000

_KEY = re.compile(
    r"base_model\.model\.(?P<module>.+?)\."
    r"(?P<part>lora_A\.weight|lora_B\.weight|lora_B\.bias|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector(?:\.weight)?|base_layer\.weight|base_layer\.bias"
    r"|(?:modules_to_save\.)?(?:weight|bias))"
)


@dataclass
class ModuleChange:
    """The adapter's tensors for one weight or bias of a module.

    `keys` are the names of tensors in the adapter's file by part (`lora_A.weight`, `bias`, ...).
    """

    module: str
    keys: dict[str, str] = field(default_factory=dict)


def find_alphas(data: Any, modules: Iterable[str], where: str) -> dict[str, float]:
    """Return the alpha of each module that the config's `alpha_pattern` has one for.

    Its keys are regular expressions of whole module names; `where` is its address in messages.

    Raises:
        CheckpointError: it is not a mapping from regular expressions to numbers, or one is too
            large or takes too long.
    """
    end = time.monotonic() + _PATIENCE
    found: dict[str, float] = {}
    for pattern, given in _VALUES.mapping(data, where).items():
        alpha = _VALUES.real(given, f"{where}.{pattern}")
        repeats = math.prod(max(1, int(count[:9])) for count in _COUNT.findall(pattern))
        try:
            if len(pattern) > _LONGEST or repeats > _MOST_REPEATS:
                raise ValueError
            re.compile(pattern)  # `regex` has more than the expressions of PEFT
            compiled = regex.compile(rf"(.*\.)?({pattern})")  # `re` has no limit of time
            for module in modules:
                if compiled.fullmatch(module, timeout=max(end - time.monotonic(), 0.001)):
                    found.setdefault(module, alpha)
        except (re.error, regex.error, ValueError, OverflowError, RecursionError, TimeoutError):
            raise CheckpointError(
                f"`{where}` has the pattern {shown(pattern)}, which is not a regular expression "
                "that can be compared with the names of all modules; write out the names."
            ) from None
    return found


def check_supported(config: Mapping[str, Any], folder: Path) -> None:
    """Check that an adapter is LoRA, without settings that are not supported.

    Raises:
        CheckpointError: it is not; the message names the key.
    """
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"The adapter {folder} has peft_type {shown(kind)}, but only LORA is supported; merge "
            "it into its model with PEFT and use the merged model as parent."
        )
    for key in _UNSUPPORTED_KEYS:
        if config.get(key):
            raise CheckpointError(
                f"The adapter {folder} sets {key!r}, which is not supported; merge it into its "
                "model with PEFT and use the merged model as parent."
            )
    start = config.get("init_lora_weights", True)
    if start not in _KEEPING_BASE:
        raise CheckpointError(
            f"The adapter {folder} has init_lora_weights {shown(start)}, which changes the "
            "model's own weights; convert it to ordinary LoRA with PEFT's "
            "save_pretrained(path_initial_model_for_weight_conversion=...)."
        )


def find_changes(
    checkpoint: Checkpoint, tensors: Mapping[str, TensorInfo], file: Path
) -> tuple[dict[str, ModuleChange], dict[str, ModuleChange]]:
    """Return the changes of a model's weights and those of its biases, by names in the model.

    Args:
        tensors: the tensors in the adapter's file, by name.
        file: the adapter's file, for error messages.

    Raises:
        CheckpointError: a tensor of the adapter is of a kind that is not supported, or the model
            has no tensor for it.
    """
    by_normal = {normal(name, checkpoint): name for name in checkpoint.tensors}
    found: tuple[dict[str, ModuleChange], dict[str, ModuleChange]] = ({}, {})
    for key in tensors:
        match = _KEY.fullmatch(key)
        if match is None:
            raise CheckpointError(
                f"{file}: tensor {shown(key)} is of a kind that is not supported; merge the "
                "adapter into its model with PEFT and use the merged model as parent."
            )
        module = match["module"]
        part = match["part"].removeprefix("modules_to_save.")
        part = "lora_magnitude_vector" if "magnitude" in part else part
        leaf = "bias" if part.endswith("bias") else "weight"
        wanted = f"{module}.{leaf}"
        name = wanted if wanted in checkpoint.tensors else by_normal.get(normal(wanted, checkpoint))
        if name is None:
            raise CheckpointError(
                f"{file}: tensor {shown(key)} changes {shown(wanted)}, which "
                f"{checkpoint.reference!r} does not have on disk; the head is tied, or the "
                "adapter belongs to another model."
            )
        change = found[leaf == "bias"].setdefault(name, ModuleChange(module))
        change.keys[part] = key
    # The scale of a LoRA bias depends on the rank, which only the weight's matrices show.
    for change in found[1].values():
        weight = next((c for c in found[0].values() if c.module == change.module), None)
        if "lora_B.bias" in change.keys and weight is not None:
            change.keys.update(
                {part: key for part, key in weight.keys.items() if part == "lora_A.weight"}
            )
    return found
