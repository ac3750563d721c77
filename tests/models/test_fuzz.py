"""Model folders of any bytes: config, safetensors headers, indices, adapters, tokenizers."""

import json
import shutil
import struct

import pytest
import tiny
import torch
from hypothesis import given, settings
from mutations import FUZZ, damaged, json_files, value_or_error
from safetensors.torch import load_file, save_file

from evomerge.merging.tensors.adapters import adapter_patches
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.models.safetensors import INDEX, SINGLE, read_folder, read_header
from evomerge.recipe import Layer, Recipe, Source

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "text_config": {"model_type": "llama", "tie_word_embeddings": False},
    "tie_word_embeddings": False,
    "dtype": "float32",
    "eos_token_id": [1, 2],
    "pad_token_id": 0,
    "quantization_config": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
}
ADAPTER = {
    "peft_type": "LORA",
    "r": 2,
    "lora_alpha": 4,
    "target_modules": ["q_proj"],
    "alpha_pattern": {"layers.1.self_attn.q_proj": 8},
    "rank_pattern": {},
    "use_rslora": False,
    "use_dora": False,
    "fan_in_fan_out": False,
    "init_lora_weights": True,
    "modules_to_save": None,
    "layer_replication": None,
}
SPECIAL = {
    "id": 0, "content": "<pad>", "single_word": False, "lstrip": False, "rstrip": False,
    "normalized": False, "special": True,
}  # fmt: skip
BPE = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [SPECIAL, {**SPECIAL, "id": 5, "content": "<new>"}],
    "normalizer": None,
    "pre_tokenizer": {"type": "Whitespace"},
    "post_processor": None,
    "decoder": None,
    "model": {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": {"<pad>": 0, "a": 1, "b": 2, "ab": 3, "c": 4}, "merges": [["a", "b"]],
    },
}  # fmt: skip
UNIGRAM = {
    **BPE,
    "model": {
        "type": "Unigram", "unk_id": 0, "byte_fallback": False,
        "vocab": [["<pad>", 0.0], ["a", -1.0], ["b", -2.0], ["ab", -1.5], ["d", -3.0]],
    },
}  # fmt: skip
TOKENIZER_CONFIG = {
    "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    "added_tokens_decoder": {"0": {"content": "<pad>", "special": True}},
    "pad_token": "<pad>",
    "eos_token": {"content": "<new>"},
}
GENERATION = {"eos_token_id": [1, 2], "pad_token_id": 0, "max_length": 20}


def look(checkpoint):
    """Everything that later rooms ask of a checkpoint without reading a weight."""
    return (
        checkpoint.parameters, checkpoint.main, checkpoint.places, checkpoint.embedding,
        checkpoint.head, checkpoint.token_tensors, checkpoint.text_config, checkpoint.tied,
        checkpoint.vocabulary, checkpoint.nbytes, checkpoint.filters(), checkpoint.fingerprint,
    )  # fmt: skip


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    return Checkpoint.open(tiny.make(tmp_path_factory.mktemp("m") / "host", "llama"), "host")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("m") / "model", "llama", seed=1)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("m") / "sharded", "llama", seed=2, shards=True)


@FUZZ
@given(data=json_files(CONFIG))
def test_configs(folder, host, tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "configured"
    if not path.exists():
        shutil.copytree(folder, path)
    (path / "config.json").write_bytes(data)

    def read():
        checkpoint = Checkpoint.open(path, "model")
        check_fit(host, [checkpoint])
        return look(checkpoint)

    value_or_error(read)


def header_of(file):
    with file.open("rb") as stream:
        return json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))


def with_header(header: bytes, data: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + data


SMALL = {
    "__metadata__": {"format": "pt"},
    **{
        f"model.layers.0.{name}.weight": {
            "dtype": "F32", "shape": [2, 2], "data_offsets": [16 * i, 16 * i + 16],
        }
        for i, name in enumerate(["mlp.up", "mlp.down", "attn.q", "attn.k"])
    },
    "model.embed_tokens.weight": {"dtype": "BF16", "shape": [4, 2], "data_offsets": [64, 80]},
}  # fmt: skip


@FUZZ
@given(
    data=json_files(SMALL).map(lambda header: with_header(header, bytes(80)))
    | damaged(with_header(json.dumps(SMALL).encode(), bytes(80)))
)
def test_safetensors_files(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "one"
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text("{}")
    (path / SINGLE).write_bytes(data)
    value_or_error(lambda: read_header(path / SINGLE))
    value_or_error(lambda: look(Checkpoint.open(path, "model")))


def test_the_header_that_is_mutated_is_valid(tmp_path):
    (tmp_path / SINGLE).write_bytes(with_header(json.dumps(SMALL).encode(), bytes(80)))
    assert len(read_header(tmp_path / SINGLE)) == 5


@pytest.mark.parametrize(
    "name",
    ["model.layers.²", "model.layers.00", "model.layers." + "9" * 5000, "model.layers", "model.0"],
)
def test_block_numbers_of_any_spelling(tmp_path, name):
    """Digits that are no plain number, and blocks without names inside, make no stack."""
    header = {
        f"{name}{rest}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, rest in enumerate(["", ".a.weight", ".b.weight", ".c.weight", ".d.weight"])
    }
    (tmp_path / SINGLE).write_bytes(with_header(json.dumps(header).encode(), bytes(20)))
    (tmp_path / "config.json").write_text("{}")
    value_or_error(lambda: look(Checkpoint.open(tmp_path, "model")))


INDEXED = {
    "metadata": {"total_size": 100},
    "weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"},
}


@FUZZ
@given(data=json_files(INDEXED))
def test_indices(sharded, data):
    index = sharded / INDEX
    index.write_bytes(data)
    value_or_error(lambda: read_folder(sharded))


@pytest.mark.parametrize("shard", ["x" * 5000, "a\0b", "a/b", "..", "", "é" * 200, 3, None, []])
def test_shard_names_of_any_kind(sharded, shard):
    (sharded / INDEX).write_text(json.dumps({"weight_map": {"model.norm.weight": shard}}))
    assert value_or_error(lambda: read_folder(sharded)) is None


def adapter_tensors():
    name = "base_model.model.model.layers.{}.self_attn.q_proj.{}.weight"
    return {
        name.format(layer, part): torch.ones(shape)
        for layer in range(2)
        for part, shape in (("lora_A", (2, 16)), ("lora_B", (16, 2)))
    }


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter")
    save_file(adapter_tensors(), path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    return path


def patched(folder, adapter):
    """Open an adapter and put its change on every tensor."""
    checkpoint = Checkpoint.open(folder, "model", adapter=adapter)
    patch = adapter_patches({"model": checkpoint})["model"]
    tensors = load_file(folder / SINGLE)
    return {name: patch(name, tensor) for name, tensor in tensors.items()}


@FUZZ
@given(data=json_files(ADAPTER))
def test_adapter_configs(folder, adapter, data):
    (adapter / "adapter_config.json").write_bytes(data)
    tensors = value_or_error(lambda: patched(folder, adapter))
    assert tensors is None or all(bool(item.isfinite().all()) for item in tensors.values())


LORA = "base_model.model.model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    "tensors",
    [
        {"lora_A.weight": (0, 16), "lora_B.weight": (16, 0)},
        {"lora_A.weight": (2, 16), "lora_B.weight": (16, 3)},
        {"lora_A.weight": (2,), "lora_B.weight": (16,)},
        {"lora_A.weight": (), "lora_B.weight": ()},
        {"lora_A.weight": (2, 16), "lora_embedding_B": (16, 2)},
        {"lora_A.weight": (2, 16), "lora_B.weight": (16, 2), "lora_magnitude_vector": (3,)},
        {"lora_magnitude_vector": (16,)},
        {"lora_B.bias": (16,)},
        {"bias": (5,)},
        {"lora_A.weight": (2, 16)},
        {"weight": (3, 3)},
    ],
    ids=str,
)
def test_adapters_of_any_shapes(folder, tmp_path, tensors):
    save_file(
        {LORA + part: torch.ones(shape) for part, shape in tensors.items()},
        tmp_path / "adapter_model.safetensors",
    )
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    assert value_or_error(lambda: patched(folder, tmp_path)) is None


def _recipe(tokenizer, **options):
    layer = Layer("linear", (Source("host"), Source("model")))
    return Recipe("host", {}, layer, layer, tokenizer=tokenizer, options=options)


def plan_all(folder, other):
    """Plan every kind of tokenizer for a pair of parents, either as the host."""
    opened = {
        "host": Checkpoint.open(folder, "host"),
        "model": Checkpoint.open(other, "model"),
    }
    tokens = json.dumps({"a": {"source": "model"}})
    recipes = [
        _recipe("base", chat_template="auto"),
        _recipe("model", chat_template="auto"),
        _recipe("union", tokens=tokens, pad_to_multiple_of="4"),
        _recipe("union"),
    ]
    swapped = {"host": opened["model"], "model": opened["host"]}
    for number, recipe in enumerate(recipes):
        for parents in (opened, swapped):
            if number and parents is swapped:
                parents = {
                    name: Checkpoint.open(item.folder, name) for name, item in swapped.items()
                }
            value_or_error(lambda recipe=recipe, parents=parents: plan_tokenizer(recipe, parents))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Two folders with the same weights and small tokenizers, by kind of tokenizer."""
    root = tmp_path_factory.mktemp("tokenizers")
    found = {}
    for kind, content in (("bpe", BPE), ("unigram", UNIGRAM)):
        for name in ("one", "two"):
            path = tiny.make(root / kind / name, "llama", tokenizer=False)
            (path / "tokenizer.json").write_text(json.dumps(content))
            (path / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
            (path / "generation_config.json").write_text(json.dumps(GENERATION))
        found[kind] = (root / kind / "one", root / kind / "two")
    return found


@settings(FUZZ, max_examples=80)
@given(data=json_files(BPE))
def test_bpe_tokenizers(pairs, data):
    one, two = pairs["bpe"]
    (two / "tokenizer.json").write_bytes(data)
    plan_all(one, two)


@settings(FUZZ, max_examples=80)
@given(data=json_files(UNIGRAM))
def test_unigram_tokenizers(pairs, data):
    one, two = pairs["unigram"]
    (two / "tokenizer.json").write_bytes(data)
    plan_all(one, two)


@settings(FUZZ, max_examples=60)
@given(data=json_files(TOKENIZER_CONFIG))
def test_tokenizer_configs(pairs, data):
    one, two = pairs["bpe"]
    (two / "tokenizer.json").write_text(json.dumps(BPE))
    (two / "tokenizer_config.json").write_bytes(data)
    plan_all(one, two)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@settings(FUZZ, max_examples=40)
@given(data=json_files({**CONFIG, **GENERATION}))
def test_token_ids_in_configs(pairs, name, data):
    one, two = pairs["unigram"]
    (two / "tokenizer.json").write_text(json.dumps(UNIGRAM))
    (two / name).write_bytes(data)
    try:
        value_or_error(lambda: plan_all(one, two))
    finally:
        (two / "generation_config.json").write_text(json.dumps(GENERATION))
        (two / "config.json").write_bytes((one / "config.json").read_bytes())


@pytest.mark.parametrize("name", ["chat_template.jinja", "vocab.json", "merges.txt"])
def test_tokenizer_texts_that_are_not_utf_8(pairs, name):
    one, two = pairs["unigram"]
    (two / name).write_bytes(b"\xff\xfe{{ x }}")
    try:
        plan_all(one, two)
    finally:
        (two / name).unlink()


@pytest.mark.parametrize(
    "tokens",
    [
        "[" * 5000, "[1]", "{", '{"a": 1}', '{"a": {"source": {"kind": []}}}', "NaN",
        '{"a": {"source": {"kind": "model_token", "model": [], "token": "a"}}}',
        '{"a": {"source": {"kind": "model_token", "model": "host", "token": []}}}',
        '{"a": {"source": {"kind": "model_token", "model": "host", "token_id": 1e9}}}',
        '{"a": {"source": {"kind": "model_token", "model": "host", "token_id": true}}}',
        '{"\\ud800": {"source": "host"}}',
    ],
)  # fmt: skip
def test_tokens_of_any_kind(pairs, tokens):
    one, two = pairs["unigram"]
    parents = {"host": Checkpoint.open(one, "host"), "model": Checkpoint.open(two, "model")}
    recipe = _recipe("union", tokens=tokens)
    assert value_or_error(lambda: plan_tokenizer(recipe, parents)) is None


def test_the_models_that_are_mutated_are_valid(folder, adapter, pairs):
    (adapter / "adapter_config.json").write_text(json.dumps(ADAPTER))
    before = load_file(folder / SINGLE)
    after = patched(folder, adapter)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2)]
    for content, (one, two) in zip((BPE, UNIGRAM), pairs.values(), strict=True):
        (two / "tokenizer.json").write_text(json.dumps(content))
        (two / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
        parents = {"host": Checkpoint.open(one, "host"), "model": Checkpoint.open(two, "model")}
        assert plan_tokenizer(_recipe("union"), parents).rows.tokens == 6
