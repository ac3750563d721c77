"""Searches over encoder-decoders: what is merged, killed and resumed, exported, refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import tiny
import torch
import transformers
import two_stacks
import yaml
from huggingface_hub import metadata_load
from killed import check_never_killed, searched
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from two_stacks import DECODER, ENCODER, FAMILIES

import evomerge
from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.merging.backend import write as write_model
from evomerge.models.references import open_parent
from evomerge.setup.parents import open_parents
from evomerge.setup.runs import prepare
from evomerge.setup.space import make_space
from evomerge.setup.worker import make_worker

COUNT = 30

FUNCTION = """
import torch

def score(model, tokenizer, documents):
    return [float(number % 2) for number in documents]

score.documents = 30
"""


def write_tasks(folder: Path, answers: list[str]) -> None:
    """Write a task that generates two words, and one that chooses one of three."""
    rows = [
        {"question": f"w{i % 44} w{i * i % 44} w{i // 44}", "answer": answer, "label": i % 3}
        for i, answer in enumerate(answers)
    ]
    (folder / "tasks").mkdir(exist_ok=True)
    data = folder / "tasks" / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }
    written = {
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["w0"], "max_gen_toks": 3},
        "metric_list": [{"metric": "exact_match"}],
    }
    chosen = {
        "output_type": "multiple_choice",
        "doc_to_choice": ["w1", "w2 w3", "w4"],
        "doc_to_target": "label",
    }
    for name, own in (("written", written), ("chosen", chosen)):
        text = yaml.safe_dump({"task": name, **common, **own})
        (folder / "tasks" / f"{name}.yaml").write_text(text)


def by_lm_eval(folder: Path, model: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the samples of stock lm-eval on a model's folder, by task."""
    lm = HFLM(pretrained=str(model), backend="seq2seq", batch_size=1, device="cpu", dtype="float32")
    found = lm_eval.simple_evaluate(
        model=lm,
        tasks=["written", "chosen"],
        task_manager=TaskManager(include_path=str(folder / "tasks"), include_defaults=False),
        bootstrap_iters=0,
    )
    key = "doc_id"
    return {name: sorted(of, key=lambda s: int(s[key])) for name, of in found["samples"].items()}


def search_file(folder: Path, kind: str, **changes: Any) -> dict[str, Any]:
    return {
        "seed": 1,
        "parents": [str(folder / f"{kind}-{name}") for name in "ab"],
        "dtype": "float32",
        "space": {"method": "linear", "groups": 2, "knobs": {"weight": [0.0, 1.5]}},
        "objectives": [
            {"task": "written", "metric": "exact_match"},
            {"task": "chosen", "metric": "acc"},
        ],
        "evaluation": {
            "include": [str(folder / "tasks")],
            "search": {"documents": 8},
            "validation": {"documents": 8, "finalists": 2},
            "test": {"documents": 8},
        },
        "budget": {"candidates": 6},
        **changes,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of T5, two of BART, and tasks."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("t5", "bart"):
        depth = {"num_layers": DECODER} if kind == "t5" else {}  # see test_encoder_decoders.py
        for seed, name in enumerate("ab"):
            two_stacks.make(folder / f"{kind}-{name}", kind, seed, **depth)
    write_tasks(folder, ["w1"] * COUNT)
    return folder


@pytest.fixture(scope="module")
def answered(folder: Path) -> Path:
    """The folder; to half of the questions T5's `a` knows the answer."""
    texts = [sample["resps"][0][0] for sample in by_lm_eval(folder, folder / "t5-a")["written"]]
    assert len(set(texts)) > COUNT / 8, "what it writes depends on the question"
    write_tasks(folder, [text if i % 2 else "w1" for i, text in enumerate(texts)])
    return folder


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_search_is_resumed_and_its_export_has_the_scores_of_lm_eval(
    kind: str, answered: Path, tmp_path: Path
) -> None:
    folder, file = answered, tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(search_file(folder, kind)))
    run = searched(file, tmp_path / "whole")
    parts = tmp_path / "parts"
    check_never_killed(file, parts, run.folder, 5)

    out = run.export(tmp_path / "model", candidate=4)
    two_stacks.load(out)
    recorded = run.history.candidates[4].scores("search")
    assert recorded is not None
    samples = by_lm_eval(folder, out)
    for task, metric in (("written", "exact_match"), ("chosen", "acc")):
        values = [samples[task][i][metric] for i in recorded.documents[task]]
        assert list(recorded.values[f"{task}/{metric}"]) == values
    again = evomerge.evaluate(out, run.folder / "search.yaml", split="search")
    assert again and {key: recorded.aggregates[key] for key in again} == {
        key: item.value for key, item in again.items()
    }
    assert metadata_load(out / "README.md")["pipeline_tag"] == "text-generation"


def spaces(folder: Path, family: str, **space: Any) -> tuple[Any, dict[str, Any]]:
    """Return the space over the models `a` and `b` of a folder, and the opened models."""
    data = {
        "parents": [str(folder / "a"), str(folder / "b")],
        "dtype": "float32",
        "space": {"method": "linear", **space},
        "objectives": [{"task": "any:function", "metric": "score"}],
    }
    config, checkpoints, _ = open_parents(parse(data, "search.yaml"), folder)
    return make_space(config, checkpoints), checkpoints


@pytest.mark.parametrize("family", FAMILIES)
def test_a_linear_merge_with_equal_weights_is_the_average_of_all_tensors(
    family: str, tmp_path: Path
) -> None:
    for seed, name in enumerate("ab"):
        two_stacks.make(tmp_path / name, family, seed)
    space, checkpoints = spaces(tmp_path, family, groups=2)
    assert len(space.genes) == 2 * (2 + 2 + 2)
    baselines = space.baselines()
    made = {
        "genes": (space.decode((0.5,) * len(space.genes)), {"a": 0.5, "b": 0.5}),
        "uniform": (baselines["uniform"], {"a": 0.5, "b": 0.5}),
        "alone": (baselines[str(tmp_path / "b")], {"b": 1.0}),
    }
    parents = {name: two_stacks.load(tmp_path / name).state_dict() for name in "ab"}
    for name, (recipe, shares) in made.items():
        write_model(recipe, checkpoints, tmp_path / name)
        for tensor, found in two_stacks.load(tmp_path / name).state_dict().items():
            wanted = sum(share * parents[parent][tensor] for parent, share in shares.items())
            torch.testing.assert_close(found, wanted, msg=f"{name}: {tensor}")


def test_each_stack_has_groups_and_components_of_its_own(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        two_stacks.make(tmp_path / name, "bart", seed)
    space, checkpoints = spaces(tmp_path, "bart", groups=3, components=["cross_attention", "mlp"])
    places = [gene.name.split(f".{tmp_path}")[0] for gene in space.genes if "/a." in gene.name]
    parts = ("cross_attention", "mlp", "rest")
    assert places == [
        "embeddings",
        *(f"encoder[{i}:{i + 1}].{part}" for i in range(ENCODER) for part in parts[1:]),
        *(f"decoder[{i}:{i + 1}].{part}" for i in range(DECODER) for part in parts),
        "head",
    ]
    values = dict.fromkeys((gene.name for gene in space.genes), 1.0)
    values |= {name: 0.0 for name in values if "/a." in name}
    values |= {name: 1.0 - value for name, value in values.items() if "cross_attention" in name}
    write_model(space.decode(tuple(values.values())), checkpoints, tmp_path / "out")
    out, a, b = (two_stacks.load(tmp_path / name).state_dict() for name in ("out", "a", "b"))
    for name, tensor in out.items():
        torch.testing.assert_close(tensor, (a if ".encoder_attn." in name else b)[name], msg=name)

    whole, _ = spaces(tmp_path, "bart", components=["attention"])
    (found,) = {layer.sources[0].knobs["weight"] for layer in _decoder(whole)}
    assert [pattern for pattern, _ in found] == [".encoder_attn.", ".self_attn.", "*"]


def _decoder(space: Any) -> Any:
    recipe = space.decode(tuple(gene.start for gene in space.genes))
    return recipe.layers["model.decoder.layers"]


def test_a_path_is_one_through_the_decoder(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "two_judges.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(tmp_path)
    changes: dict[str, Any] = {"objectives": [{"task": "two_judges:score", "metric": "score"}]}
    told = evomerge.validate(search_file(folder, "bart", **changes), trust_code=True)
    assert told["encoder_decoder"] == "2 layers of the encoder, 3 of the decoder; all are merged"
    changes["space"] = {"kind": "dataflow", "variant": "swaps", "scales": 1.0}
    told = evomerge.validate(search_file(folder, "bart", **changes), trust_code=True)
    assert told["encoder_decoder"].endswith("3 of the decoder; those of the encoder are the host's")
    file = tmp_path / "search.yaml"
    file.write_text(yaml.safe_dump(search_file(folder, "bart", **changes)))
    run = searched(file, tmp_path / "run", trust_code=True)
    (unlike,) = run.config.frozen.unlike_merges  # a parent with another encoder is scored as it is
    assert unlike == str(folder / "bart-b")


REFUSED: dict[str, tuple[str, Callable[[Path], dict[str, Any]]]] = {
    "nll": (
        r"t5-a' is an encoder-decoder, whose tasks lm-eval itself runs, but an objective or "
        "constraint is `nll`, which it cannot do; change this",
        lambda folder: {"objectives": [{"task": "written", "metric": "nll"}]},
    ),
    "gradient": (
        "but optimizer uses gradients, which it cannot do",
        lambda folder: {"optimizer": {"name": "gradient"}},
    ),
    "speech": (
        "an encoder-decoder that does not write texts in answer to texts .*WhisperForCond",
        lambda folder: {"parents": [str(two_stacks.make(folder / "w", "whisper"))] * 2},
    ),
    "no head": (
        "does not write texts in answer to texts .*T5Model",
        lambda folder: {"parents": [str(headless(folder / "t"))] * 2},
    ),
    "columns of tokens": (
        r"'final_logits_bias' of .*bart-a' has a column for each token, and `tokenizer: union`",
        lambda folder: {"parents": ["bart-a", "bart-b"], "tokenizer": "union"},
    ),
    "depth": (
        r"deep' has 4 layers in its encoder, but the host .*t5-a' has 3; .* as many layers",
        lambda folder: {
            "parents": ["t5-a", str(two_stacks.make(folder / "deep", "t5", num_layers=4))]
        },
    ),
}


def headless(folder: Path) -> Path:
    two_stacks.make(folder, "t5")
    tiny.edit_config(folder, architectures=["T5Model"])
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_suit_is_one_sentence(case: str, folder: Path, tmp_path: Path) -> None:
    sentence, change = REFUSED[case]
    changes = change(tmp_path)
    if "parents" in changes:
        changes["parents"] = list(dict.fromkeys(str(folder / item) for item in changes["parents"]))
    with pytest.raises(InputError, match=sentence) as caught:
        evomerge.validate(search_file(folder, "t5", **changes))
    assert "\n" not in str(caught.value)


def test_an_encoder_is_no_parent_of_an_encoder_decoder(folder: Path, tmp_path: Path) -> None:
    with tiny.quiet():
        found = transformers.T5EncoderModel.from_pretrained(folder / "t5-a")
        found.save_pretrained(tmp_path / "half")
    tiny.save_tokenizer(tmp_path / "half")
    parents = [str(folder / "t5-a"), str(tmp_path / "half")]
    with pytest.raises(InputError, match=r"Parents do not fit: .*no counterpart in .*half"):
        evomerge.validate(search_file(folder, "t5", parents=parents))


def test_a_classifier_with_two_stacks_has_the_scores_of_the_library(tmp_path: Path) -> None:
    labels = ["red", "green", "blue"]
    rows = [{"text": f"w{i} w{i * i % 44}", "label": labels[i % 3]} for i in range(40)]
    for row in rows[::3]:  # transformers takes no batch in which texts have one end token or two
        row["text"] += " <eos> w5"
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for seed, name in enumerate("ab"):
        two_stacks.make(tmp_path / name, "bart/classifier", seed, num_labels=3, encoder_layers=3)
        config = {"id2label": dict(enumerate(labels)), "label2id": {}}
        tiny.edit_config(tmp_path / name, **config)
    given = search_file(tmp_path, "?", parents=[str(tmp_path / name) for name in "ab"])
    file = str(tmp_path / "rows.jsonl")
    given["objectives"] = [{"classifier": "accuracy", "file": file}]
    given["evaluation"]["include"] = []
    problem = prepare(parse(given, "search.yaml"), tmp_path)
    worker = make_worker(problem)
    baselines = problem.space.baselines()
    found = {name: worker.evaluator.score(worker.build(baselines[name])) for name in baselines}
    for name in "ab":
        folder = tmp_path / name
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
        right = [
            labels[
                int(model(tokenizer(row["text"], return_tensors="pt").input_ids).logits.argmax())
            ]
            == row["label"]
            for row in (rows[i] for i in problem.splits["search"]["classifier rows"])
        ]
        assert found[str(folder)].aggregates["classifier rows/accuracy"] == sum(right) / len(right)


def test_what_reads_the_sound_belongs_to_the_embeddings(tmp_path: Path) -> None:
    checkpoint = open_parent(str(two_stacks.make(tmp_path / "a", "whisper")), tmp_path)
    places = {name: place for name, place in checkpoint.places.items() if ".conv" in name}
    assert len(places) == 4 and set(places.values()) == {"embeddings"}


def test_gradients_are_not_advised(folder: Path) -> None:
    notes = evomerge.validate(search_file(folder, "t5"))["warnings"]
    (note,) = [note for note in notes if "it learns little" in note]
    assert "gradient" not in note
