"""Whole searches on checkpoints of several architectures, layouts and dtypes."""

import pytest
import small_models
import torch
from killed import searched
from search_run import write_search
from tiny import make
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import evomerge
from evomerge.errors import InputError

pytestmark = pytest.mark.thorough


def save_byte_level(folder):
    """Save a tokenizer of single bytes, of the type that transformers expects for Qwen."""
    specials = ["<pad>", "<bos>", "<eos>", "<unk>"]
    words = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), specials, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)


def search_file(folder, *parents):
    small_models.make(folder, "tasks")
    evaluation = {split: {"documents": 12} for split in ("search", "validation", "test")}
    return write_search(
        folder,
        parents=list(parents),
        base="base",
        dtype="bfloat16",
        space={"kind": "parameters", "method": ["dare_ties", "task_arithmetic"], "groups": 2},
        objectives=[{"task": "chosen", "metric": "acc"}],
        evaluation={"include": ["tasks"], **evaluation},
        budget={"candidates": 8},
    )


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        ("qwen2", {"dtype": "bfloat16", "tied": True, "tokenizer": False, "vocab_size": 260}),
        ("gemma2", {"dtype": "bfloat16", "tied": True, "shards": True}),
        ("gpt_neox", {}),
    ],
)
def test_the_export_has_the_scores_and_the_dtype(tmp_path, architecture, layout):
    base = make(tmp_path / "base", architecture, **layout)
    for seed, name in ((1, "one"), (2, "two")):
        make(tmp_path / name, architecture, seed=seed, near=base, **layout)
    if architecture == "qwen2":
        for name in ("base", "one", "two"):
            save_byte_level(tmp_path / name)
    file = search_file(tmp_path, "one", "two")
    run = searched(file, tmp_path / "run")
    assert {item.status for item in run.history.candidates} == {"scored"}
    out = run.export(tmp_path / "model")
    found = evomerge.evaluate(out, file)["chosen/acc"].value
    assert found == run.winner.scores("test").aggregates["chosen/acc"]
    # A parent that wins is exported in the dtype that it is stored in, a merge in the search's.
    is_stored = run.winner.name.endswith(("one", "two")) and "dtype" not in layout
    dtype = AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype
    assert dtype == (torch.float32 if is_stored else torch.bfloat16)


def test_a_tokenizer_without_tokens_for_a_prompt_is_one_sentence(tmp_path):
    """transformers loads the tokenizer of a qwen2 folder as byte-level BPE; this one is not."""
    base = make(tmp_path / "base", "qwen2")
    make(tmp_path / "one", "qwen2", seed=1, near=base)
    with pytest.raises(InputError, match="the tokenizer makes no tokens of"):
        searched(search_file(tmp_path, "one"), tmp_path / "run")
