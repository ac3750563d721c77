"""Small models, rows and tasks of every kind that a search can have, made by name."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import seeing
import tiny
import torch
import transformers
import two_stacks
import yaml
from safetensors.torch import load_file, save_file
from search_run import write_search
from tiny import OTHER, PLAIN

from evomerge import zoo

LABELS = ["red", "green", "blue"]
TALK = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
JUDGE = '''
def judge(model, tokenizer, documents):
    """Mean size of the first weights; every third model cannot be judged."""
    spread = float(next(model.parameters()).detach().abs().mean())
    if int(spread * 1e6) % 3 == 0:
        raise ValueError("this model cannot be judged")
    return {"size": [spread] * len(documents)}

judge.documents = 12
judge.metrics = {"size": True}
'''
SEEDS = {"one": 0, "two": 1}
STRANGE: dict[str, dict[str, Any]] = {
    "moods": {"seed": 3, "labels": ["good", "bad"]},
    "other-order": {"labels": LABELS[::-1]},
    "answers-plain": {"architecture": "llama", "labels": ["score"]},
    "several": {"labels": LABELS, "problem_type": "multi_label_classification"},
    "numbers": {"labels": LABELS, "problem_type": "regression"},
    "damaged": {"labels": LABELS},
}
"""Classifiers that do not suit the others."""
_PARTS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def make(folder: Path, name: str) -> None:
    """Write the model KIND-WHICH, for example `bart-one`, beside its twin; or `rows`, or `tasks`.

    KIND is one of the cases below or an architecture of `tiny`. WHICH is `one` or `two`, or for
    chat, other and mixture a model of the zoo. Other names are whole: `whisper`, `STRANGE` models.
    """
    if (folder / name).exists():
        return
    if name in STRANGE:
        tiny.make_classifier(folder / name, **STRANGE[name])
        if name == "damaged":
            tiny.edit_config(folder / name, id2label={"x": "y"})
        return
    kind, _, which = name.partition("-")
    out, seed, near = folder / name, SEEDS.get(which, 0), folder / f"{kind}-one"
    if kind in ("encoder", "texts", "answers") and which == "two":
        make(folder, near.name)
    about: dict[str, Any] = {"seed": seed, "near": near if which == "two" else None}
    match kind:
        case "rows":
            write_rows(out)
        case "tasks":
            write_tasks(out)
        case "encoder":
            tiny.make_encoder(out, prompts={"query": "w1 "}, **about)
        case "texts":
            tiny.make_classifier(out, labels=LABELS, **about)
        case "answers":
            tiny.make_classifier(out, "llama", ["score"], template=TALK, **about)
        case "prompted":
            from sentence_transformers import CrossEncoder

            make(folder, "answers-plain")
            prompt = {"prompts": {"query": "w1 "}, "default_prompt_name": "query"}
            with tiny.quiet():
                CrossEncoder(str(folder / "answers-plain"), **prompt).save_pretrained(str(out))
        case "llava":
            seeing.make(out, kind, seed)
            seeing.add_processor(out)
        case "sightless":
            seeing.make(out, "llava/text", seed)
            tiny.save_tokenizer(out, [*tiny.WORDS[:-1], "<image>"])
        case "t5" | "bart":
            two_stacks.make(out, kind, seed, **({"num_layers": 3} if kind == "t5" else {}))
        case "chat" | "other":
            shutil.copytree(zoo.path(which), out)
            (out / "chat_template.jinja").write_text(PLAIN if kind == "chat" else OTHER)
        case "whisper":
            two_stacks.make(out, kind)
        case "deep":
            two_stacks.make(out, "t5", num_layers=4)
        case "headless":
            tiny.edit_config(two_stacks.make(out, "t5"), architectures=["T5Model"])
        case "half":
            make(folder, "t5-one")
            with tiny.quiet():
                found = transformers.T5EncoderModel.from_pretrained(folder / "t5-one")
                found.save_pretrained(out)
            tiny.save_tokenizer(out)
        case "mixture":
            second = {"base": "base", "maths": "language"}.get(which, "maths")
            make_mixture(out, which, (which, second))
        case "union":  # the second has four words more, in another order
            more = [*tiny.WORDS[:4], "w50", "w51", "w52", "w53", *tiny.WORDS[:3:-1]]
            words = more if seed else tiny.WORDS
            tiny.make(out, "llama", seed=seed, tokenizer=False, vocab_size=len(words))
            tiny.save_tokenizer(out, words)
        case _:
            tiny.make(out, kind, seed=seed)


def write_tiny(folder: Path, parents: Sequence[str], **changes: Any) -> Path:
    """Write a search file over tiny models in a folder: 6 candidates, 8 documents of each split."""
    splits = {split: {"documents": 8} for split in ("search", "validation", "test")}
    given = {
        "parents": [*parents],
        "base": None,
        "space": {"method": "linear", "groups": 2, "knobs": {"weight": [0.1, 1.5]}},
        "evaluation": {**splits, "validation": {"documents": 8, "finalists": 2}},
        "budget": {"candidates": 6},
    }
    return write_search(folder, **given | changes)


def make_mixture(out: Path, base: str, experts: tuple[str, str]) -> Path:
    """Save a Mixtral: a model of the zoo with the MLPs of two others, and routers by chance."""
    weights = {name: load_file(zoo.path(name) / "model.safetensors") for name in (base, *experts)}
    tensors = {name: item for name, item in weights[base].items() if ".mlp." not in name}
    for name in weights[base].keys() - tensors.keys():
        block, part = name.split("mlp.")
        for number, expert in enumerate(experts):
            inside = f"block_sparse_moe.experts.{number}.{_PARTS[part.split('.')[0]]}.weight"
            tensors[f"{block}{inside}"] = weights[expert][name].clone()
    config = json.loads((zoo.path(base) / "config.json").read_text())
    chance = torch.Generator().manual_seed(0)
    for layer in range(config["num_hidden_layers"]):
        gate = torch.randn(2, config["hidden_size"], generator=chance)
        tensors[f"model.layers.{layer}.block_sparse_moe.gate.weight"] = gate
    shutil.copytree(zoo.path(base), out)
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    kind = {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}
    tiny.edit_config(out, **kind, num_local_experts=2, num_experts_per_tok=2)
    return out


def words(*numbers: int) -> str:
    return " ".join(f"w{number % 44}" for number in numbers)


def said(role: str, *numbers: int) -> list[dict[str, str]]:
    return [{"role": role, "content": words(*numbers)}]


def rows() -> dict[str, list[dict[str, Any]]]:
    """Return rows for encoders (pairs, questions, labels) and classifiers (texts, answers)."""
    names = ("pairs", "questions", "labels", "texts", "answers")
    made: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for i in range(60):
        one, two = words(i, i + 1), words(i * i, i // 44)
        made["pairs"].append({"sentence1": one, "sentence2": two, "score": i * 5 % 7})
        passages = {"positive": words(i, 5, i // 44), "negative": [words(7 * i, 2)]}
        made["questions"].append({"query": words(i, i + 2), **passages})
        label = {"label": "ab"[i * i % 5 > 1], "train": i % 3 == 0}
        made["labels"].append({"text": words(i, 3 * i, i // 44), **label})
        text = words(i, 3 * i, i * i, i // 44)
        made["texts"].append({"text": text, "label": LABELS[i * i % 3]})
        told = {"chosen": said("assistant", i, 7 * i), "rejected": said("assistant", 5, i * i)}
        made["answers"].append({"prompt": said("user", i, i // 44), **told})
    return made


def write_rows(folder: Path) -> None:
    folder.mkdir()
    for name, of in rows().items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, of)))


def write_tasks(folder: Path) -> None:
    """Write tasks that generate three words, choose an answer, and describe a picture."""
    from datasets import Dataset
    from PIL import Image

    made = [
        {
            "question": words(i, i * i, i // 44),
            "answer": words(i * i, i, 2 * i),
            "label": i % 3,
            "picture": Image.new("RGB", (8, 8), (5 * i, 250 - 5 * i, 40 * (i % 7))),
        }
        for i in range(40)
    ]
    folder.mkdir()
    Dataset.from_list(made).to_parquet(folder / "rows.parquet")
    writes = {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["w0"], "max_gen_toks": 3, "do_sample": False},
        "metric_list": [{"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}],
    }
    choices = {"doc_to_choice": ["w1", "w2 w3", "w4"], "doc_to_target": "label"}
    asks, sees = {"doc_to_text": "{{question}}"}, {"doc_to_text": "<image> {{question}}"}
    for name, how in (
        ("written", {**asks, **writes}),
        ("chosen", {**asks, "output_type": "multiple_choice", **choices}),
        ("pictures", {**sees, "doc_to_image": ["picture"], **writes}),
    ):
        source = {"data_files": {"test": str(folder / "rows.parquet")}}
        task = {"task": name, "dataset_path": "parquet", "dataset_kwargs": source, **how}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, "test_split": "test"}))
