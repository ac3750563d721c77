"""The figures of compared parents are those of plain torch, in every dtype and architecture."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

from evomerge.merging.compare import compare_parents
from evomerge.models.references import open_parent


def compared(base: Path | None, *parents: Path):
    """Compare the models in folders, without a check of what fits."""
    folders = [item for item in (base, *parents) if item is not None]
    models = {item: open_parent(str(item), Path.cwd()) for item in folders}
    names = {models[item].reference: item.name for item in folders}
    return compare_parents(
        None if base is None else models[base], [models[item] for item in parents], names
    )


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
        ("llama", ("bfloat16", "bfloat16", "float16")),
        ("gpt2", ("float32", "bfloat16", "float32")),
        ("t5", ("float32", "float32", "float32")),
    ],
)
def test_the_figures_are_those_of_plain_torch(tmp_path, architecture, dtypes):
    folders = family(tmp_path, architecture, dtypes)
    found, alone = compared(*folders), compared(None, *folders[1:])
    r, *p = (flat(folder) for folder in folders)
    one, two = (item - r for item in p)
    np.testing.assert_allclose(found.change(), [d.norm() / r.norm() for d in (one, two)], rtol=1e-5)
    cosine = torch.nn.functional.cosine_similarity
    assert math.isclose(found.cosines()[0, 1], cosine(one, two, dim=0), abs_tol=1e-6)
    assert math.isclose(alone.cosines()[0, 1], cosine(*p, dim=0), rel_tol=1e-6)


def test_each_weight_is_in_one_component_and_towers_have_their_own(tmp_path):
    def is_change(words, component):
        base, one = (flat(folder, words) for folder in folders[:2])
        expected = float((one - base).norm() / base.norm())
        return math.isclose(found.change(component)[0], expected, rel_tol=1e-5)

    folders = family(tmp_path / "text", tied=False)
    found = compared(*folders)
    assert set(found.products) == {"attention", "mlp", "embeddings", "head", "norm"}
    assert is_change("embed_tokens", "embeddings") and is_change(".mlp.", "mlp")
    squares = sum(float(gram[0, 0]) for gram in found.products.values())
    assert math.isclose(squares, float(flat(folders[0]).square().sum()), rel_tol=1e-5)
    folders = family(tmp_path / "sees", "llava")
    found = compared(*folders)
    assert {"vision", "projector", "attention", "mlp"} <= set(found.products)
    assert is_change("projector", "projector")


def test_a_tied_head_is_counted_once_and_a_parent_equal_to_the_base_changed_nothing(tmp_path):
    base, one, _ = family(tmp_path, tied=True)
    same = shutil.copytree(base, tmp_path / "same")
    found = compared(base, one, same)
    squares = sum(float(gram[0, 0]) for gram in found.products.values())
    assert math.isclose(squares, float(flat(base).square().sum()), rel_tol=1e-5)
    assert found.change()[1] == 0 and np.isnan(found.cosines()[0, 1])
    heads, rows = found.rows()
    assert heads[-2:] == ["nearest", "cosine"]
    assert [row[-2:] for row in rows] == [["same", "-"], ["one", "-"]]


def test_a_tensor_of_another_shape_is_left_out_and_a_long_one_is_added_up_in_blocks(tmp_path):
    base = tiny.make(tmp_path / "one", tied=False)
    found = compared(base, tiny.make(tmp_path / "other", vocab_size=60, tied=False))
    assert "embeddings" not in found.products
    (note,) = [item for item in found.notes if item.startswith("Not compared")]
    assert "2 of the tensors" in note and "lm_head.weight" in note
    folders = family(tmp_path / "long", vocab_size=70_000, tied=True, tokenizer=False)
    gram = compared(*folders).products["embeddings"]
    one, two = (flat(f, "embed") - flat(folders[0], "embed") for f in folders[1:])
    assert math.isclose(gram[1, 2], float(one @ two), rel_tol=1e-4)
