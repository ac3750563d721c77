"""Model types of parents: what their configs say computes with their tensors."""

from __future__ import annotations

from collections.abc import Iterable

from evomerge.models.checkpoint import Checkpoint


def type_notes(checkpoints: Iterable[Checkpoint]) -> list[str]:
    """Return a warning if parents have different model types, such as `llama` and `mistral`.

    Of a vision-language model, the type of its language model counts.

    Args:
        checkpoints: the parents, the host first.
    """
    found: dict[str, str] = {}
    for checkpoint in checkpoints:
        kind = checkpoint.text_config.get("model_type")
        if isinstance(kind, str):
            found.setdefault(kind, checkpoint.reference)
    if len(found) < 2:
        return []
    host = next(iter(found))
    told = ", ".join(f"{kind} ({reference})" for kind, reference in found.items())
    return [
        f"Parents have different model types: {told}; their tensors fit, but these types may "
        f"compute different things with them, and the merge is a {host} model; merge models of one "
        "type unless you know that they compute the same."
    ]
