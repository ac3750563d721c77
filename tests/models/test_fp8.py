"""Parents in FP8 with scales of blocks: their weights in bfloat16, and what is refused."""

import json

import pytest
import tiny
import torch
from merges import every, mix
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.merging.backend import load
from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.resident import Resident
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tensors.reader import TensorReader
from evomerge.merging.writer import unchanged, write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.part import Parents
from evomerge.models.parts import part_notes

WEIGHTS = "model.safetensors"
BLOCK = (8, 6)  # neither divides all sizes of the tiny model
QUANTISED = {"quant_method": "fp8", "weight_block_size": [*BLOCK], "activation_scheme": "dynamic"}


def in_fp8(folder, scales=torch.float32, **how):
    """Store the projections of a tiny model in FP8; return the weights that it then has.

    The oracle expands each scale to its block with numpy's indices, as the paper writes it.
    """
    tiny.make(folder, dtype="bfloat16", **how)
    tensors, plain = load_file(folder / WEIGHTS), {}
    for name, weight in tensors.items():
        plain[name] = weight
        if "_proj" not in name:
            continue
        rows, columns = weight.shape
        row = torch.arange(rows) // BLOCK[0]
        column = torch.arange(columns) // BLOCK[1]
        factors = torch.rand(int(row[-1]) + 1, int(column[-1]) + 1).to(scales) / 448 + 1e-4
        whole = factors.float()[row[:, None], column]
        numbers = (weight.float() / whole).clamp(-448, 448).to(torch.float8_e4m3fn)
        plain[name] = (numbers.float() * whole).bfloat16()
        tensors = {**tensors, name: numbers, f"{name}_scale_inv": factors}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    tiny.edit_config(folder, quantization_config=QUANTISED)
    return plain


@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16])
def test_every_tensor_is_torchs_own_product_in_bfloat16(scales, tmp_path):
    plain = in_fp8(tmp_path / "a", scales)
    parent = Checkpoint.open(tmp_path / "a", "a")
    assert parent.tensors.keys() == plain.keys() and "quantization_config" not in parent.config
    reader = TensorReader({"a": parent})
    for name, weight in plain.items():
        assert torch.equal(as_tensor(reader.read(source := SourceTensor("a", name))), weight)
        assert reader.is_copied(source) == ("_proj" in name)


def test_merges_and_the_parent_itself_have_the_weights_in_bfloat16(tmp_path):
    plain = in_fp8(tmp_path / "a", seed=1)
    tiny.make(tmp_path / "b", dtype="bfloat16", seed=2)
    tiny.make(tmp_path / "plain", dtype="bfloat16", seed=1)
    save_file(plain, tmp_path / "plain" / WEIGHTS, metadata={"format": "pt"})
    a, b = (Checkpoint.open(tmp_path / name, name) for name in "ab")
    same = Checkpoint.open(tmp_path / "plain", "a")
    for parents, out in (({"a": a, "b": b}, "one"), ({"a": same, "b": b}, "two")):
        recipe = every(a, lambda i: mix("ab", i), dtype="bfloat16")
        write_model(recipe, parents, tmp_path / out, copies=True)
        built = Resident(parents, "a", "bfloat16").apply(recipe).state_dict()
        written = load_file(tmp_path / out / WEIGHTS)
        assert all(torch.equal(built[name], tensor) for name, tensor in written.items())
    one, two = (load_file(tmp_path / out / WEIGHTS) for out in ("one", "two"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in two)
    one, two = (json.loads((tmp_path / n / "config.json").read_text()) for n in ("one", "two"))
    assert one == two
    write_model(unchanged(a, "bfloat16"), {"a": a}, tmp_path / "itself", copies=True)
    exported = load_file(tmp_path / "itself" / WEIGHTS)
    config = json.loads((tmp_path / "itself" / "config.json").read_text())
    assert "quantization_config" not in config
    for name, weight in load(a, "cpu").state_dict().items():
        assert torch.equal(weight, exported[name]) and torch.equal(weight, plain[name])
    (note,) = part_notes(Parents({"a": a, "b": b}, "b", {"a": "./a", "b": "./b"}))
    assert note.startswith("./a is stored in FP8; merges, scores and exports have")


def test_a_fingerprint_covers_numbers_and_scales(tmp_path):
    in_fp8(tmp_path / "a")
    before = Checkpoint.open(tmp_path / "a", "a").fingerprint
    tiny.rewrite(tmp_path / "a", lambda it: next(
        tensor for name, tensor in it.items() if name.endswith("scale_inv")
    ).mul_(2))  # fmt: skip
    assert Checkpoint.open(tmp_path / "a", "a").fingerprint != before


REFUSED = [
    ({"weight_block_size": None}, "is FP8 without weight_block_size None"),
    ({"weight_block_size": [0, 8]}, r"is FP8 without weight_block_size \[0, 8\]"),
    ({"weight_block_size": [8, 8]}, r"_proj.weight_scale_inv' is F32 .* download it again"),
    ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized"}, "'nvfp4-pack-"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "is 'NVFP4'"),
    ({"quant_method": "mxfp4"}, r"is 'mxfp4'\), and only FP8 with a scale for each block"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_other_ways_to_quantise_are_refused_by_name(changes, message, tmp_path):
    in_fp8(tmp_path / "a")
    tiny.edit_config(tmp_path / "a", quantization_config={**QUANTISED, **changes})
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(tmp_path / "a", "a")
