"""Properties of a merged model itself, which objectives and constraints may name."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from evomerge.scores import MODEL

_IN_A_LIST = re.compile(r"\.\d+\.")


def properties(model: Any, names: Collection[str]) -> dict[str, float]:
    """Return properties of a model: `model/parameters`, `model/layers`.

    Args:
        model: a model of transformers.
        names: which properties; of `evomerge.scores.MODEL_METRICS`.
    """
    found = {"parameters": _parameters, "layers": _layers}
    return {f"{MODEL}/{name}": float(found[name](model)) for name in names}


def _parameters(model: Any) -> int:
    """Return the number of parameters of the model's checkpoint.

    A weight that is used in two places, such as embeddings that are the head too, counts once.
    Blocks of a path that come from the same layer count each, since a checkpoint has each of them.
    """
    counts: dict[object, int] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        key = name if _IN_A_LIST.search(name) else id(parameter)
        counts[key] = parameter.numel()
    return sum(counts.values())


def _layers(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)
