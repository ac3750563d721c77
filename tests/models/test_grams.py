"""The Gram matrix of a weight that is assembled from several stored ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.grams import Gram, GramFile
from evomerge.models.safetensors import Part, TensorInfo

AS_STORED = (0, 1)


def part(name: str, axes: tuple[int, int] = AS_STORED) -> Part:
    info = TensorInfo("F32", (4, 4), Path("model"), 0, 64)
    return Part(name, info, axes, (0, 0), (4, 4), (0, 0), AS_STORED)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ((), "fused"),
        ((part("query"), part("key")), "shared"),
        ((part("query"),), "shared"),
        ((part("query"), part("output")), None),  # they have different inputs
        ((part("query"), part("experts")), None),
        ((part("query", (1, 0)),), None),
    ],
)
def test_parts_need_one_gram_matrix(parts: tuple[Part, ...], found: str | None) -> None:
    info = TensorInfo("F32", (4, 4), Path("grams"), 0, 64)
    shared, other, fused = (Gram(name, info, False) for name in ("shared", "other", "fused"))
    weights = {"query": shared, "key": shared, "output": other, "qkv": fused}
    tensors = {"qkv": TensorInfo("F32", (8, 4), Path("model"), 0, 128, parts)}
    grams = GramFile(Path("grams"), "0" * 64, weights)
    model = Checkpoint("model", Path(), {}, tensors, grams=grams)
    gram = model.gram("qkv")
    assert (gram and gram.name) == found
