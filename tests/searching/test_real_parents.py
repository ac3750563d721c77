"""Whole searches on checkpoints of several architectures, layouts and dtypes, and on adapters."""

import json
import signal
import time

import peft
import pytest
import torch
import yaml
from search_run import ended, evomerge, evomerge_json, start
from tiny import WORDS, make
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

pytestmark = pytest.mark.thorough


def save_byte_level(folder):
    """Save a tokenizer of single bytes, of the type that transformers expects for Qwen."""
    specials = ["<pad>", "<bos>", "<eos>", "<unk>"]
    words = [*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token"), specials, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=core, **names).save_pretrained(folder)


def write_task(folder):
    """Write a multiple-choice task with the words of the tiny tokenizer."""
    folder.mkdir()
    words = [word for word in WORDS if word.isalnum()]
    with (folder / "docs.jsonl").open("w") as file:
        for i in range(60):
            line = [words[(i + k) % len(words)] for k in range(4)]
            choices = [words[(3 * i + 5 * k) % len(words)] for k in range(3)]
            document = {"prompt": " ".join(line), "choices": choices, "gold": i % 3}
            file.write(json.dumps(document) + "\n")
    task = {
        "task": "tiny_words",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "docs.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc"}],
    }
    (folder / "tiny_words.yaml").write_text(yaml.safe_dump(task))


def search_file(folder, parents, **changes):
    write_task(folder / "tasks")
    search = {
        "parents": parents,
        "base": "./base",
        "dtype": "bfloat16",
        "space": {"kind": "parameters", "method": ["dare_ties", "task_arithmetic"], "groups": 2},
        "objectives": [{"task": "tiny_words", "metric": "acc"}],
        "evaluation": {
            "include": ["./tasks"],
            "search": {"documents": 20},
            "validation": {"documents": 20, "finalists": 2},
            "test": {"documents": 20},
        },
        "budget": {"candidates": 8},
    }
    (folder / "search.yaml").write_text(yaml.safe_dump(search | changes))
    return folder / "search.yaml"


def check_run(folder, file):
    """Return the exported model and the winner, whose score the export must have; no row failed."""
    evomerge("search", file, "--run", folder / "run")
    answer = evomerge_json("results", folder / "run")
    assert [row["status"] for row in answer["candidates"]] == ["scored"] * 8
    evomerge("export", folder / "run", "--out", folder / "model")
    winner = answer["candidates"][answer["winner"]]
    scored = evomerge_json("evaluate", folder / "model", "--config", file, "--split", "test")
    assert scored["scores"]["tiny_words/acc"]["value"] == winner["test tiny_words/acc"]
    return AutoModelForCausalLM.from_pretrained(folder / "model", dtype="auto"), winner


@pytest.mark.parametrize(
    ("architecture", "layout"),
    [
        ("llama", {"tied": False}),
        ("qwen2", {"dtype": "bfloat16", "tied": True, "tokenizer": False, "vocab_size": 260}),
        ("gemma2", {"dtype": "bfloat16", "tied": True, "shards": True}),
        ("gpt_neox", {}),
    ],
)
def test_search_and_export(tmp_path, architecture, layout):
    base = make(tmp_path / "base", architecture, **layout)
    for seed, name in ((1, "one"), (2, "two")):
        make(tmp_path / name, architecture, seed=seed, near=base, **layout)
    if architecture == "qwen2":
        for name in ("base", "one", "two"):
            save_byte_level(tmp_path / name)
    model, winner = check_run(tmp_path, search_file(tmp_path, ["./one", "./two"]))
    # A parent that wins is exported in the dtype that it is stored in, a merge in the search's.
    is_stored = winner["origin"].endswith(("one", "two")) and "dtype" not in layout
    assert model.dtype == (torch.float32 if is_stored else torch.bfloat16)


def test_a_tokenizer_without_tokens_for_a_prompt_is_one_sentence(tmp_path):
    """transformers loads the tokenizer of a qwen2 folder as byte-level BPE; this one is not."""
    base = make(tmp_path / "base", "qwen2")
    make(tmp_path / "one", "qwen2", seed=1, near=base)
    file = search_file(tmp_path, ["./one"])
    done = evomerge("search", file, "--run", tmp_path / "run", code=2)
    assert "the tokenizer makes no tokens of" in done.stderr


def test_a_lora_adapter_is_a_parent(tmp_path):
    base = make(tmp_path / "base")
    make(tmp_path / "one", seed=1, near=base)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    adapted.save_pretrained(tmp_path / "adapter")
    check_run(tmp_path, search_file(tmp_path, ["./one", "./base+./adapter"]))


def test_an_interrupt_says_how_to_go_on(tmp_path):
    make(tmp_path / "base")
    make(tmp_path / "one", seed=1, near=tmp_path / "base")
    file = search_file(tmp_path, ["./one"], budget={"candidates": 100_000})
    with (tmp_path / "said").open("w") as said:
        process = start("search", file, "--run", tmp_path / "run", stdout=said, stderr=said)
    journal = tmp_path / "run" / "journal.jsonl"
    with ended(process):
        while process.poll() is None and not (
            journal.exists() and journal.read_bytes().count(b"\n") > 10
        ):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(250) == 130
    said = (tmp_path / "said").read_text()
    assert f"evomerge resume {tmp_path / 'run'}" in said
    assert "Traceback" not in said
