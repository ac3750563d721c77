"""Searches over classifiers and reward models: resumed, exported, and with parents that differ."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
import yaml
from killed import check_never_killed, searched
from safetensors.torch import load_file
from search_run import events_of
from sklearn.metrics import f1_score

import evomerge
from evomerge.errors import EvomergeError
from evomerge.scores import Scores

LABELS = ["red", "green", "blue"]
TEMPLATE = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"


def words(*numbers: int) -> str:
    return " ".join(f"w{number % 44}" for number in numbers)


def messages(text: str, role: str) -> list[dict[str, str]]:
    return [{"role": role, "content": text}]


ROWS: dict[str, list[dict[str, Any]]] = {
    "texts": [
        {"text": words(i, 3 * i, i * i, i // 44), "label": LABELS[i * i % 3]} for i in range(60)
    ],
    "answers": [
        {
            "prompt": messages(words(i, i // 44), "user"),
            "chosen": messages(words(i, 7 * i), "assistant"),
            "rejected": messages(words(5, i * i), "assistant"),
        }
        for i in range(60)
    ],
}

KINDS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "texts": ({"labels": LABELS}, ["accuracy", "f1"]),
    "answers": (
        {"architecture": "llama", "labels": ["score"], "template": TEMPLATE},
        ["pairwise"],
    ),
}
"""File of rows -> the models, and what they are scored by."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parents of each kind, files of rows, and a search file of each kind."""
    folder = tmp_path_factory.mktemp("classifiers")
    for kind, (how, metrics) in KINDS.items():
        (folder / f"{kind}.jsonl").write_text("\n".join(map(json.dumps, ROWS[kind])))
        one = tiny.make_classifier(folder / f"{kind}-one", **how)
        tiny.make_classifier(folder / f"{kind}-two", seed=1, near=one, **how)
        objectives = [{"classifier": metric, "file": f"{kind}.jsonl"} for metric in metrics]
        parents = [f"{kind}-one", f"{kind}-two"]
        write(folder, f"{kind}.yaml", objectives=objectives, parents=parents)
    return folder


def write(folder: Path, name: str = "search.yaml", **changes: Any) -> Path:
    search = {
        "seed": 1,
        "dtype": "float32",
        "space": {
            "kind": "parameters",
            "method": "linear",
            "groups": 2,
            "knobs": {"weight": [0, 1.5]},
        },
        "optimizer": {"name": "cma"},
        "objectives": [{"classifier": "accuracy", "file": "texts.jsonl"}],
        "evaluation": {
            "search": {"documents": 20},
            "validation": {"documents": 20, "finalists": 2},
            "test": {"documents": 20},
        },
        "budget": {"candidates": 8},
    }
    (folder / name).write_text(yaml.safe_dump(search | changes))
    return folder / name


def stock(folder: Path) -> tuple[Any, Any]:
    kind = transformers.AutoModelForSequenceClassification
    with tiny.quiet():
        model, report = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def by_library(folder: Path, kind: str, documents: Any) -> dict[str, float]:
    """Return the scores of rows, one by one, with transformers and scikit-learn only."""
    rows = [ROWS[kind][i] for i in documents]
    model, tokenizer = stock(folder)
    if kind == "answers":

        def score(row: Any, key: str) -> float:
            chat = [*row["prompt"], *row[key]]
            ids = tokenizer.apply_chat_template(chat, return_tensors="pt", return_dict=True)
            return float(model(ids["input_ids"]).logits[0, 0])

        return {"pairwise": np.mean([score(r, "chosen") > score(r, "rejected") for r in rows])}
    logits = [model(**tokenizer(row["text"], return_tensors="pt")).logits for row in rows]
    found = [model.config.id2label[int(item.argmax())] for item in logits]
    right = [row["label"] for row in rows]
    accuracy = np.mean([a == b for a, b in zip(found, right, strict=True)])
    return {"accuracy": accuracy, "f1": f1_score(right, found, average="macro")}


@pytest.fixture(scope="module")
def run_of(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], evomerge.Run]:
    """Return the run of a kind's search file, which is searched once."""
    runs: dict[str, evomerge.Run] = {}

    def run(kind: str) -> evomerge.Run:
        if kind not in runs:
            runs[kind] = searched(folder / f"{kind}.yaml", tmp_path_factory.mktemp(kind) / "run")
        return runs[kind]

    return run


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_is_never_killed(
    kind: str, folder: Path, run_of: Callable[[str], evomerge.Run], tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", run_of(kind).folder
    check_never_killed(folder / f"{kind}.yaml", run, whole, 5)


@pytest.mark.thorough
def test_workers_give_the_same_bits(
    folder: Path, run_of: Callable[[str], evomerge.Run], tmp_path: Path
) -> None:
    data = yaml.safe_load((folder / "answers.yaml").read_text())
    data["executor"] = {"kind": "processes", "workers": 2}
    (folder / "workers.yaml").write_text(yaml.safe_dump(data))
    searched(folder / "workers.yaml", tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(run_of("answers").folder)


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_has_the_recorded_scores_in_the_library(
    kind: str, run_of: Callable[[str], evomerge.Run], tmp_path: Path
) -> None:
    run = run_of(kind)
    out, best = run.export(tmp_path / "model"), run.winner
    assert best is not None
    recorded = best.scores("test")
    assert recorded is not None
    name = f"classifier {kind}"
    again = evomerge.evaluate(out, run.folder / "search.yaml")
    assert {key: item.value for key, item in again.items()} == recorded.aggregates
    theirs = by_library(out, kind, recorded.documents[name])
    for metric in KINDS[kind][1]:
        assert recorded.aggregates[f"{name}/{metric}"] == pytest.approx(theirs[metric], abs=1e-9)
        assert again[f"{name}/{metric}"].has_interval == (metric != "f1")
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card and "library_name: trans" in card


def head(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    return {name: item for name, item in tensors.items() if name.startswith(("class", "score"))}


def same(found: Mapping[str, Any], scores: Scores) -> bool:
    return {key: item.value for key, item in found.items()}.items() <= scores.aggregates.items()


def parent_scores(run: evomerge.Run, name: str) -> tuple[int, Scores, bool]:
    """Return the number of a parent's baseline, its test scores, and whether it is itself there."""
    found = next(c for c in run.history.candidates if c.label and c.label.endswith(f"/{name}"))
    scores = found.scores("test")
    assert scores is not None
    return found.number, scores, "test" in found.as_itself


def test_rows_of_the_head_are_put_into_the_host_s_order(folder: Path, tmp_path: Path) -> None:
    one, order = folder / "texts-one", [2, 0, 1]
    names = [LABELS[i] for i in order]
    other = tiny.make_classifier(folder / "turned", near=folder / "texts-two", labels=names)
    tensors = load_file(other / "model.safetensors")
    straight = tiny.make_classifier(folder / "straight", near=folder / "texts-two", labels=LABELS)

    def turn(item: dict[str, torch.Tensor]) -> None:
        for name in ("classifier.weight", "classifier.bias"):
            item[name] = tensors[name][[order.index(i) for i in range(3)]]

    tiny.rewrite(straight, turn)
    files = {
        name: write(folder, f"{name}.yaml", parents=["texts-one", name], budget={"candidates": 5})
        for name in ("turned", "straight")
    }
    runs = {name: searched(file, tmp_path / name) for name, file in files.items()}
    outs = {name: run.export(tmp_path / f"{name}-m", 4) for name, run in runs.items()}
    # A parent whose labels are in the host's order from the start gives the same bits.
    for name, tensor in load_file(outs["straight"] / "model.safetensors").items():
        assert torch.equal(tensor, load_file(outs["turned"] / "model.safetensors")[name]), name
    assert not torch.equal(head(outs["turned"])["classifier.bias"], head(one)["classifier.bias"])
    # Alone it is scored the same, whichever order its labels have.
    alone = evomerge.evaluate(other, files["turned"])
    _, scores, _ = parent_scores(runs["turned"], "turned")
    assert same(alone, scores)


def test_of_other_labels_only_the_body_is_merged(folder: Path, tmp_path: Path) -> None:
    tiny.make_classifier(folder / "moods", near=None, seed=3, labels=["good", "bad"])
    parents = ["texts-one", "moods", "texts-two"]
    file = write(folder, "moods.yaml", parents=parents, budget={"candidates": 6})
    report = evomerge.validate(file)
    assert report["classifier"] == "texts with the labels red, green, blue; merged: the body"
    assert (
        "only the body of moods (BertForSequenceClassification) is merged; its classifier is left "
        "out; the classifier of the host texts-one takes its place, also where moods is scored or "
        "exported alone; its labels are good, bad and those of texts-one red, green, blue: if they "
        "mean the same, give them the same names in `id2label` of both."
    ) in report["warnings"]
    assert not any("label2id" in line for line in report["warnings"])  # it is said above
    run = searched(file, tmp_path / "run")
    out = run.export(tmp_path / "model", 5)
    for name, tensor in head(folder / "texts-one").items():
        assert torch.equal(tensor, head(out)[name])
    body = "bert.encoder.layer.0.attention.self.query.weight"
    weights = [load_file(place / "model.safetensors")[body] for place in (out, folder / "moods")]
    assert not torch.equal(*weights)
    # A parent without a head for these labels is scored and exported with that of the host.
    number, scores, itself = parent_scores(run, "moods")
    borrowed = run.export(tmp_path / "moods", number)
    stock(borrowed)
    tensors = load_file(borrowed / "model.safetensors")
    assert torch.equal(tensors[body], weights[1]) and not itself
    assert torch.equal(tensors["classifier.bias"], head(folder / "texts-one")["classifier.bias"])
    again = evomerge.evaluate(borrowed, file)
    assert same(again, scores)
    # One with a head for them is scored with its own.
    number, scores, _ = parent_scores(run, "texts-two")
    assert same(evomerge.evaluate(folder / "texts-two", file), scores)
    # Which head a merge has follows from its recipe, whichever parents the search has beside.
    for place in (out, borrowed, run.export(tmp_path / "two", number)):
        again = tmp_path / f"{place.name}-again"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            evomerge.merge(place / "evomerge_recipe.yaml", again)
        tensors = load_file(again / "model.safetensors")
        for name, tensor in load_file(place / "model.safetensors").items():
            assert torch.equal(tensor, tensors[name]), name
    assert not (out / "mergekit_config.yml").exists()  # it would merge the heads


def test_a_reward_model_merges_with_chat_models(folder: Path, tmp_path: Path) -> None:
    tiny.make(folder / "chat", "llama", seed=5)
    file = write(
        folder,
        "chat.yaml",
        parents=["answers-one", "chat"],
        objectives=[{"classifier": "pairwise", "file": "answers.jsonl"}],
        budget={"candidates": 5},
    )
    report = evomerge.validate(file)
    assert report["classifier"] == "one score of a text (a reward model); merged: the body"
    assert (
        "only the body of chat (LlamaForCausalLM) is merged; its lm_head is left out; the score of "
        "the host answers-one takes its place, also where chat is scored or exported alone."
    ) in report["warnings"]
    run = searched(file, tmp_path / "run")
    out = run.export(tmp_path / "model", 4)
    stock(out)
    assert torch.equal(head(out)["score.weight"], head(folder / "answers-one")["score.weight"])
    norm = "model.norm.weight"
    ours, theirs = (load_file(f / "model.safetensors")[norm] for f in (out, folder / "chat"))
    assert not torch.equal(ours, theirs)


@pytest.mark.parametrize("architecture", ["bert", "roberta"])
def test_a_base_without_a_head_gives_task_vectors_of_the_body(
    architecture: str, tmp_path: Path
) -> None:
    one = tiny.make_classifier(tmp_path / "one", architecture, LABELS)
    tiny.make_classifier(tmp_path / "two", architecture, LABELS, near=one, seed=1)
    with tiny.quiet():
        body = transformers.AutoModel.from_pretrained(one)
        body.save_pretrained(tmp_path / "base")
    (tmp_path / "texts.jsonl").write_text("\n".join(map(json.dumps, ROWS["texts"])))
    space = {"kind": "parameters", "method": "task_arithmetic", "knobs": {"weight": [0, 1.5]}}
    changes = {"parents": ["one", "two"], "base": "base", "budget": {"candidates": 4}}
    with pytest.raises(EvomergeError, match=r"without the head of a \w+; make '.*one' the host"):
        evomerge.validate(write(tmp_path, space=space, **changes))
    file = write(tmp_path, space=space | {"host": "one"}, **changes)
    told = evomerge.validate(file)["warnings"]
    assert any(line.startswith("only the body of base (") for line in told)
    out = searched(file, tmp_path / "run").export(tmp_path / "model", 3)
    stock(out)
    for name, tensor in head(one).items():
        assert torch.equal(tensor, head(out)[name])


def test_a_recipe_file_tells_which_head_it_keeps(folder: Path, tmp_path: Path) -> None:
    tiny.make_classifier(tmp_path / "moods", seed=3, labels=["good", "bad"])
    recipe = tmp_path / "merge.yaml"
    models = [
        {"model": str(place), "parameters": {"weight": 0.5}}
        for place in (folder / "texts-one", tmp_path / "moods")
    ]
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": models}))
    with pytest.warns(UserWarning, match="only the body of .*moods.* is merged"):
        evomerge.merge(recipe, tmp_path / "out")
    stock(tmp_path / "out")


def with_labels(*labels: Any) -> list[Any]:
    every = [*labels, *["red"] * 60]
    return [{"text": words(i, i // 44), "label": label} for i, label in enumerate(every)]


REFUSED: dict[str, tuple[dict[str, Any], list[Any] | None, str]] = {
    "a file": (
        {"objectives": [{"classifier": "f1"}]},
        None,
        "the `classifier` f1 without a `file`",
    ),
    "a task too": (
        {"objectives": [{"classifier": "f1", "file": "rows.jsonl", "task": "x"}]},
        None,
        "has the `task` 'x' and the `classifier` f1; remove one",
    ),
    "an encoder too": (
        {"objectives": [{"classifier": "f1", "file": "rows.jsonl", "encoder": "sts"}]},
        None,
        "has the `classifier` f1 and the `encoder` sts; remove one",
    ),
    "another metric": (
        {"objectives": [{"classifier": "f1", "file": "rows.jsonl", "metric": "accuracy"}]},
        None,
        "has the `classifier` f1 and the `metric` accuracy; remove `metric`",
    ),
    "another kind": (
        {"objectives": [{"classifier": "acuracy", "file": "rows.jsonl"}]},
        None,
        "Did you mean 'accuracy'?",
    ),
    "a missing file": (
        {"objectives": [{"classifier": "f1", "file": "gone.jsonl"}]},
        None,
        "there is no file",
    ),
    "a label": (
        {},
        with_labels("read"),
        "row 1 of classifier rows has the label 'read', and the labels of 'texts-one' are red, "
        "green, blue; write one of them, or its number from 0. Did you mean 'red'?",
    ),
    "a number": ({}, with_labels(0, 3), "row 2 of classifier rows has the label 3, and"),
    "numbers with two orders": (
        {"parents": ["texts-one", "other-order"]},
        with_labels(1),
        "'texts-one' and 'other-order' have their labels in different orders; write the names",
    ),
    "outputs": (
        {"objectives": [{"classifier": "pairwise", "file": "answers.jsonl"}]},
        None,
        "with 3 outputs (problem_type None), but classifier answers needs a class that ends in "
        "ForSequenceClassification with one output (a reward model); name such a host",
    ),
    "one output": (
        {"parents": ["answers-one", "answers-two"]},
        with_labels("red"),
        "with 1 outputs (problem_type None), but classifier rows needs a class that ends in "
        "ForSequenceClassification with labels of which it chooses one",
    ),
    "a causal model": (
        {"parents": ["plain"]},
        with_labels("red"),
        "Parent 'plain' is a LlamaForCausalLM with 0 outputs (problem_type None), but",
    ),
    "several labels": (
        {"parents": ["several"]},
        with_labels("red"),
        "outputs (problem_type multi_label_classification), but classifier rows needs",
    ),
    "regression": (
        {"parents": ["numbers"]},
        with_labels("red"),
        "outputs (problem_type regression), but classifier rows needs",
    ),
    "no tokens": (
        {
            "parents": ["answers-one", "answers-two"],
            "objectives": [{"classifier": "pairwise", "file": "rows.jsonl"}],
        },
        [
            {"chosen": "w1", "rejected": " "},
            *({"chosen": f"w{i}", "rejected": "w9"} for i in range(60)),
        ],
        "row 1 of classifier rows has a text of which the tokenizer of 'answers-one' makes no",
    ),
    "no template": (
        {
            "parents": ["answers-plain"],
            "objectives": [{"classifier": "pairwise", "file": "answers.jsonl"}],
        },
        None,
        "row 1 of classifier answers has messages that the tokenizer of 'answers-plain' cannot",
    ),
    "a damaged config": (
        {"parents": ["texts-one", "damaged"]},
        None,
        "Parent 'damaged': `id2label` in its config.json must have the names of the labels",
    ),
    "gradients": (
        {"optimizer": {"name": "gradient"}},
        with_labels("red"),
        "`optimizer.name` is gradient, but classifier rows/accuracy has no reference answers",
    ),
}


@pytest.fixture(scope="module")
def strangers(folder: Path) -> Path:
    """Return the folder with parents that do not suit."""
    tiny.make(folder / "plain", "llama")
    tiny.make_classifier(folder / "other-order", labels=LABELS[::-1])
    tiny.make_classifier(folder / "answers-plain", "llama", ["score"])
    several = {"problem_type": "multi_label_classification"}
    tiny.make_classifier(folder / "several", labels=LABELS, **several)
    tiny.make_classifier(folder / "numbers", labels=LABELS, problem_type="regression")
    tiny.edit_config(tiny.make_classifier(folder / "damaged", labels=LABELS), id2label={"x": "y"})
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_suit_is_one_sentence(strangers: Path, case: str) -> None:
    changes, rows, expected = REFUSED[case]
    if rows is not None:
        (strangers / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        changes = {"objectives": [{"classifier": "accuracy", "file": "rows.jsonl"}]} | changes
    whole = {"parents": ["texts-one", "texts-two"]} | changes
    with pytest.raises(EvomergeError) as caught:
        evomerge.validate(write(strangers, "refused.yaml", **whole))
    assert expected in str(caught.value).replace(f"{strangers}/", "")


def test_a_folder_with_another_head_is_not_evaluated(strangers: Path) -> None:
    with pytest.raises(EvomergeError, match="plain' is a LlamaForCausalLM with 0 outputs"):
        evomerge.evaluate(strangers / "plain", strangers / "texts.yaml")
    with pytest.raises(EvomergeError, match=r"labels of .* are good, bad"):
        tiny.make_classifier(strangers / "good", labels=["good", "bad"])
        evomerge.evaluate(strangers / "good", strangers / "texts.yaml")
