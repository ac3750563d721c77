"""Writes the models, rows and tasks that the searches of `searches.yaml` need."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml
from datasets import Dataset
from PIL import Image

ROOT = Path(__file__).parents[2]
LABELS = ["red", "green", "blue"]
TALK = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
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


def make(folder: Path, shared: Path, architectures: list[str]) -> None:
    """Write all models; `shared` has the folder `oracle` with mergekit's parents."""
    sys.path.insert(0, str(ROOT / "tests" / "shared"))
    import seeing
    import tiny
    import two_stacks

    folder.mkdir(parents=True)
    shutil.copytree(ROOT / "configs" / "adapters", folder / "adapters")
    shutil.copytree(shared / "oracle" / "parents", folder / "oracle")
    for name in ("base", "language", "maths"):
        shutil.copytree(ROOT / "evomerge" / "zoo" / "models" / name, folder / f"chat-{name}")
        (folder / f"chat-{name}" / "chat_template.jinja").write_text(PLAIN)
    one = tiny.make_encoder(folder / "encoder-one", prompts={"query": "w1 "})
    tiny.make_encoder(folder / "encoder-two", seed=1, near=one, prompts={"query": "w1 "})
    chat: dict[str, Any] = {"architecture": "llama", "labels": ["score"], "template": TALK}
    for kind, how in (("texts", {"labels": LABELS}), ("answers", chat)):
        one = tiny.make_classifier(folder / f"{kind}-one", **how)
        tiny.make_classifier(folder / f"{kind}-two", seed=1, near=one, **how)
    for seed, name in enumerate(("one", "two")):
        for kind in architectures:
            tiny.make(folder / f"{kind}-{name}", kind, seed=seed)
        two_stacks.make(folder / f"t5-{name}", "t5", seed, num_layers=3)
        two_stacks.make(folder / f"bart-{name}", "bart", seed)
        seeing.make(folder / f"llava-{name}", "llava", seed)
        seeing.add_processor(folder / f"llava-{name}")
    _write_rows(folder / "rows")
    _write_tasks(folder / "tasks")
    (folder / "judging.py").write_text(JUDGE)


def _words(*numbers: int) -> str:
    return " ".join(f"w{number % 44}" for number in numbers)


def _said(role: str, *numbers: int) -> list[dict[str, str]]:
    return [{"role": role, "content": _words(*numbers)}]


def _write_rows(folder: Path) -> None:
    rows: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("pairs", "questions", "labels", "texts", "answers")
    }
    for i in range(60):
        one, two = _words(i, i + 1), _words(i * i, i // 44)
        rows["pairs"].append({"sentence1": one, "sentence2": two, "score": i * 5 % 7})
        passages = {"positive": _words(i, 5, i // 44), "negative": [_words(7 * i, 2)]}
        rows["questions"].append({"query": _words(i, i + 2), **passages})
        label = {"label": "ab"[i * i % 5 > 1], "train": i % 3 == 0}
        rows["labels"].append({"text": _words(i, 3 * i, i // 44), **label})
        text = _words(i, 3 * i, i * i, i // 44)
        rows["texts"].append({"text": text, "label": LABELS[i * i % 3]})
        answers = {
            "chosen": _said("assistant", i, 7 * i),
            "rejected": _said("assistant", 5, i * i),
        }
        rows["answers"].append({"prompt": _said("user", i, i // 44), **answers})
    folder.mkdir()
    for name, of in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, of)))


def _write_tasks(folder: Path) -> None:
    rows = [
        {
            "question": _words(i, i * i, i // 44),
            "answer": _words(i * i, i, 2 * i),
            "label": i % 3,
            "picture": Image.new("RGB", (8, 8), (5 * i, 250 - 5 * i, 40 * (i % 7))),
        }
        for i in range(40)
    ]
    folder.mkdir()
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    writes = {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["w0"], "max_gen_toks": 3, "do_sample": False},
        "metric_list": [{"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}],
    }
    choices = {"doc_to_choice": ["w1", "w2 w3", "w4"], "doc_to_target": "label"}
    for name, how in (
        ("written", {"doc_to_text": "{{question}}", **writes}),
        ("chosen", {"doc_to_text": "{{question}}", "output_type": "multiple_choice", **choices}),
        (
            "pictures",
            {"doc_to_text": "<image> {{question}}", "doc_to_image": ["picture"], **writes},
        ),
    ):
        source = {"data_files": {"test": str(folder / "rows.parquet")}}
        task = {"task": name, "dataset_path": "parquet", "dataset_kwargs": source, **how}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**task, "test_split": "test"}))
