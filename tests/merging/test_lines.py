"""LiNeS (arXiv 2410.17146) by `lambda` over depth, in a search of two genes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from safetensors.torch import load_file
from spaces import parameters

from evomerge.merging.backend import write
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.space.parameters import ParameterSpace

STACK = "model.layers"
ALPHA, BETA = 0.25, 0.5


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    root, names = tmp_path_factory.mktemp("llamas"), enumerate(("base", "a", "b"))
    return {name: Checkpoint.open(tiny.make(root / name, seed=i), name) for i, name in names}


def space(method: str, lambdas: float | tuple[float, float]) -> ParameterSpace:
    """The search space that docs/methods.md shows, for models of three blocks."""
    return parameters(
        [method],
        layers=3,
        groups=2,
        smooth=True,
        embeddings=False,
        knobs={
            **({"density": 0.6} if method == "ties" else {}),
            "weight": 0.5 if isinstance(lambdas, tuple) else (0.5, 1.0),
            "lambda": lambdas,
        },
        frame={"dtype": "float32"},
    )


def scale(name: str) -> float:
    """The paper's factor on a tensor's task vector; the head has that of the last block."""
    if name.startswith(STACK):
        return ALPHA + BETA * int(name.split(".")[2]) / (3 - 1)
    return ALPHA if "embed_tokens" in name else ALPHA + BETA


def tensors(recipe: Recipe, parents: dict[str, Checkpoint], out: Path) -> dict[str, Any]:
    write(recipe, parents, out)
    return {name: x.double().numpy() for name, x in load_file(out / "model.safetensors").items()}


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_two_genes_scale_the_merged_task_vector_as_the_paper_does(
    method: str, parents: Any, tmp_path: Path
) -> None:
    lines = space(method, (0.0, 1.0))
    assert [gene.name for gene in lines.genes] == ["layers[0].lambda", "layers[2].lambda"]
    plain = space(method, 1.0)
    merged = tensors(plain.decode((0.5,) * len(plain.genes)), parents, tmp_path / "plain")
    scaled = tensors(lines.decode((ALPHA, ALPHA + BETA)), parents, tmp_path / "lines")
    base = load_file(Path(parents["base"].folder) / "model.safetensors")
    for name, start in base.items():
        origin = start.double().numpy()
        expected = origin + scale(name) * (merged[name] - origin)
        np.testing.assert_allclose(scaled[name], expected, rtol=1e-6, atol=1e-7)
