"""Layers for multi-token prediction (MTP), which guess further tokens, for faster decoding.

Published checkpoints of DeepSeek-V3, GLM-4-MoE, Qwen3-Next and others have them: as further blocks
behind the last one, or under the name `mtp`. They are no part of the model that transformers loads,
no score depends on them, and models that transformers has saved lack them. So they are not merged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

COUNTS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
"""Keys of configs with the number of these layers."""

_NAME = re.compile(r"(^|\.)mtp(_\w+)?\.")
_JOIN = re.compile(r"(.+\.\d+\.)eh_proj\.")  # joins the hidden state and the next embedding


def prediction_tensors(names: Iterable[str]) -> frozenset[str]:
    """Return those tensors of a checkpoint that belong to layers for multi-token prediction.

    Args:
        names: names of all tensors.
    """
    names = list(names)
    blocks = tuple({found[1] for name in names if (found := _JOIN.match(name))})
    return frozenset(name for name in names if name.startswith(blocks) or _NAME.search(name))


def prediction_notes(owners: Iterable[str]) -> list[str]:
    """Return a warning that such layers are left out of a merge.

    Args:
        owners: references of the parents that have some.
    """
    names = ", ".join(owners)
    if not names:
        return []
    return [
        f"The layers for multi-token prediction of {names} are left out of the merge, since "
        "transformers does not load them and no score depends on them; serve the merge without "
        "speculative decoding by such layers."
    ]
