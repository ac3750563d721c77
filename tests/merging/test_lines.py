"""LiNeS (arXiv 2410.17146) by `lambda` over depth: in a search of two genes, in a mergekit file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from safetensors.torch import load_file
from spaces import parameters

from evomerge.mergekit import from_mergekit, to_mergekit
from evomerge.merging.backend import write
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe, knob_at
from evomerge.space.parameters import ParameterSpace

STACK = "model.layers"
ALPHA, BETA = 0.25, 0.5

FILE = """
merge_method: {method}
base_model: base
models: [{{model: a, parameters: {{weight: 0.5}}}}, {{model: b, parameters: {{weight: 0.5}}}}]
parameters: {{lambda: [{low}, {high}]}}
dtype: float32
"""


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    root = tmp_path_factory.mktemp("llamas")
    return {
        name: Checkpoint.open(tiny.make(root / name, "llama", seed=seed), name)
        for seed, name in enumerate(("base", "a", "b"))
    }


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


def scale(name: str, *, head: float) -> float:
    """The paper's factor on a tensor's task vector; that of the head, outside of it, is `head`."""
    if name.startswith(STACK):
        return ALPHA + BETA * int(name.split(".")[2]) / (3 - 1)
    return ALPHA if "embed_tokens" in name else head


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
        expected = origin + scale(name, head=ALPHA + BETA) * (merged[name] - origin)
        np.testing.assert_allclose(scaled[name], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_a_gradient_of_lambda_is_the_authors_scale_of_each_tensor(
    method: str, parents: Any
) -> None:
    recipe = from_mergekit(FILE.format(method=method, low=ALPHA, high=ALPHA + BETA), parents)
    for name in parents["base"].places:
        layer = (
            recipe.layers[STACK][int(name.split(".")[2])]
            if name.startswith(STACK)
            else recipe.embeddings
            if "embed_tokens" in name
            else recipe.head
        )
        assert knob_at(layer.knobs["lambda"], name) == scale(name, head=ALPHA)


def test_mergekit_can_express_a_merge_with_two_such_genes(parents: Any) -> None:
    recipe = space("task_arithmetic", (0.0, 1.0)).decode((ALPHA, ALPHA + BETA))
    text = to_mergekit(recipe, parents)
    assert text is not None
    folders = (str(item.folder) for item in parents.values())
    read = from_mergekit(
        text, {folder: Checkpoint.open(Path(folder), folder) for folder in folders}
    )
    for name in parents["base"].places:
        if name.startswith(STACK):
            number = int(name.split(".")[2])
            knobs = read.layers[STACK][number].knobs
            assert knob_at(knobs["lambda"], name) == scale(name, head=ALPHA + BETA)
