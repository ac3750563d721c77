"""The figures of compared parents are those of plain torch, in every dtype and architecture."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from evomerge.models.references import open_parent
from evomerge.report.parents.weights import Part, compare_weights


def opened(*folders: Path):
    return [open_parent(str(folder), Path.cwd()) for folder in folders]


def family(folder: Path, architecture: str = "llama", dtypes=("float32",) * 3, **changes):
    """A base and two fine-tunes of it, the second of which leaves half as it is."""
    base = tiny.make(folder / "base", architecture, dtype=dtypes[0], **changes)
    one = tiny.make(folder / "one", architecture, near=base, seed=1, dtype=dtypes[1], **changes)
    two = tiny.make(folder / "two", architecture, near=base, seed=2, dtype=dtypes[2], **changes)
    kept = load_file(base / "model.safetensors")

    def half(tensors):
        for name, tensor in tensors.items():
            tensor.view(-1)[::2] = kept[name].to(tensor.dtype).view(-1)[::2]

    tiny.rewrite(two, half)
    return base, one, two


def flat(folder: Path, words: str = "") -> torch.Tensor:
    """The weights of a model in float64, of those parameters whose names have these words."""
    named = dict(tiny.load(folder).named_parameters())
    return torch.cat([item.detach().double().flatten() for n, item in named.items() if words in n])


@pytest.mark.parametrize(
    ("architecture", "dtypes"),
    [
        ("llama", ("float32", "float32", "float32")),
        ("llama", ("bfloat16", "bfloat16", "float16")),
        ("gpt2", ("float32", "bfloat16", "float32")),
        ("qwen3", ("float16", "float16", "float16")),
        ("t5", ("float32", "bfloat16", "float32")),
    ],
)
def test_the_figures_are_those_of_plain_torch(tmp_path, architecture, dtypes):
    folders = family(tmp_path, architecture, dtypes)
    base, *parents = opened(*folders)
    whole = compare_weights(base, parents).whole
    r, *p = (flat(folder) for folder in folders)
    one, two = (item - r for item in p)
    assert whole.elements == len(r)
    np.testing.assert_allclose(whole.norms, [one.norm(), two.norm()], rtol=1e-5)
    np.testing.assert_allclose(whole.change, [d.norm() / r.norm() for d in (one, two)], rtol=1e-5)
    cosine = float(torch.nn.functional.cosine_similarity(one, two, dim=0))
    assert math.isclose(whole.cosines[0, 1], cosine, abs_tol=1e-6)
    both = (one != 0) & (two != 0)
    assert whole.changed_share[1] == float((two != 0).double().mean()) < 0.6
    apart = ((one * two) < 0).sum()
    assert whole.conflict_share[0, 1] == whole.conflict_share[1, 0] == int(apart) / int(both.sum())
    distance = (p[0] - p[1]).norm() / ((p[0].norm() + p[1].norm()) / 2)
    assert math.isclose(whole.distances[0, 1], distance, rel_tol=1e-4)
    of_weights = float(torch.nn.functional.cosine_similarity(*p, dim=0))
    assert math.isclose(whole.weight_cosines[0, 1], of_weights, rel_tol=1e-6)


def test_without_a_base_distances_and_cosines_of_weights_are_the_same(tmp_path):
    base, *parents = opened(*family(tmp_path))
    known, unknown = compare_weights(base, parents), compare_weights(None, parents)
    for mine, theirs in zip(unknown.by_layer, known.by_layer, strict=True):
        np.testing.assert_allclose(mine.distances, theirs.distances, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(mine.weight_cosines, theirs.weight_cosines, rtol=1e-6)


def test_each_weight_is_in_one_part_and_the_parts_have_their_places(tmp_path):
    folders = family(tmp_path, tied=False)
    base, *parents = opened(*folders)
    found = compare_weights(base, parents)
    sizes = {part: sums.elements for part, sums in found.parts.items()}
    assert sum(sizes.values()) == len(flat(folders[0])) == found.whole.elements
    assert sizes[Part("embeddings", None)] == len(flat(folders[0], "embed_tokens"))
    assert sizes[Part("attention", 1)] == len(flat(folders[0], "layers.1.self_attn"))
    assert sizes[Part("mlp", 2)] == len(flat(folders[0], "layers.2.mlp"))
    change = flat(folders[1], "layers.1.") - flat(folders[0], "layers.1.")
    assert math.isclose(found.by_layer[1].norms[0], change.norm(), rel_tol=1e-5)
    assert list(found.components) == ["attention", "mlp", "embeddings", "head", "norm"]
    assert [part.layer for part in found.parts if part.component == "mlp"] == [0, 1, 2]
    assert found.layers == 3 and not found.left_out


def test_towers_and_projectors_are_parts_of_their_own(tmp_path):
    folders = family(tmp_path, "llava")
    base, *parents = opened(*folders)
    found = compare_weights(base, parents)
    assert found.whole.elements == len(flat(folders[0])) and not found.left_out
    assert {"vision", "projector", "attention", "mlp"} <= set(found.components)
    change = flat(folders[1], "projector") - flat(folders[0], "projector")
    assert math.isclose(found.components["projector"].norms[0], change.norm(), rel_tol=1e-5)


def test_a_tied_head_is_counted_once_and_a_parent_equal_to_the_base_changed_nothing(tmp_path):
    folders = family(tmp_path, tied=True)
    base, one, _ = opened(*folders)
    (same,) = opened(folders[0])
    found = compare_weights(base, [one, same])
    assert found.whole.elements == len(flat(folders[0]))
    assert found.whole.change[1] == found.whole.changed_share[1] == 0
    assert np.isnan(found.whole.cosines[0, 1]) and np.isnan(found.whole.conflict_share[0, 1])


def test_a_tensor_of_another_shape_is_left_out_and_named(tmp_path):
    base = tiny.make(tmp_path / "base", tied=False)
    other = tiny.make(tmp_path / "other", vocab_size=60, tied=False)
    host, parent = opened(base, other)
    found = compare_weights(host, [parent])
    assert set(found.left_out) == {"model.embed_tokens.weight", "lm_head.weight"}
    assert "embeddings" not in found.components


def test_a_long_tensor_is_added_up_in_blocks(tmp_path):
    folders = family(tmp_path, vocab_size=70_000, tied=True, tokenizer=False)
    base, *parents = opened(*folders)
    found = compare_weights(base, parents).components["embeddings"]
    one, two = (flat(f, "embed") - flat(folders[0], "embed") for f in folders[1:])
    assert found.elements == 70_000 * 16
    np.testing.assert_allclose(found.norms, [one.norm(), two.norm()], rtol=1e-5)
    assert found.conflicts[0, 1] == int(((one * two) < 0).sum())
