"""Losses of encoders are sentence-transformers' own; their slopes equal finite differences."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor, nn

from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.loss import Loss
from evomerge.evaluation.tasks.encoders import EncoderObjective
from evomerge.evaluation.tasks.files import load_objective
from evomerge.merging.backend import load, tokenizer_of
from evomerge.merging.resident import Resident
from evomerge.merging.slopes import Move, Slopes, rates
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.scores import ENCODER_METRICS, Objective

sentence_transformers = pytest.importorskip("sentence_transformers")


def words(*numbers: int) -> str:
    return " ".join(f"w{number % 44}" for number in numbers)


STS = [
    {"sentence1": words(i, i + 1), "sentence2": words(i * i, 3, 5), "score": i * 5 % 7}
    for i in range(12)
]
RETRIEVAL = [
    {"query": words(i, i + 2), "positive": words(i, 5, i), "negative": words(7 * i, 2)}
    for i in range(9)
]
CLASSIFICATION = [
    {"text": words(i, 3 * i), "label": "abc"[i % 3], "train": i < 3} for i in range(13)
]
ROWS = {"sts": STS, "retrieval": RETRIEVAL, "classification": CLASSIFICATION}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prompts = {"query": "w1 ", "document": "w2 "}
    return tiny.make_encoder(tmp_path_factory.mktemp("encoder") / "a", prompts=prompts)


def objective_of(kind: str, folder: Path, rows: Sequence[Any] | None = None) -> EncoderObjective:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows or ROWS[kind])))
    objective = load_objective(kind, str(file))
    assert isinstance(objective, EncoderObjective)
    return objective


def prepared(
    objective: EncoderObjective, model: Any, tokenizer: Any, batch_size: Any = "auto"
) -> tuple[Loss, dict[str, range]]:
    """Return a loss that knows a model, and all documents."""
    documents = {objective.info.name: range(objective.info.documents)}
    evaluator = Evaluator(None, [objective], batch_size)
    evaluator.prepare(model, tokenizer, {"search": documents})
    metric = ENCODER_METRICS[objective.kind][0]
    return Loss(evaluator, [Objective(objective.info.name, metric)]), documents


def loss_of(folder: Path, objective: EncoderObjective) -> float:
    opened = Checkpoint.open(folder, "a")
    model = load(opened, "cpu", causal=False, modules=opened)
    loss, documents = prepared(objective, model, tokenizer_of(opened))
    return loss(model, documents)


def with_similarity(folder: Path, name: str) -> Any:
    """Set how the encoder in a folder compares embeddings; return it as the library loads it."""
    settings = folder / "config_sentence_transformers.json"
    data = json.loads(settings.read_text()) | {"similarity_fn_name": name}
    settings.write_text(json.dumps(data))
    with tiny.quiet():
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("similarity", "is_normal"),
    [("cosine", False), ("dot", True), ("dot", False), ("euclidean", True)],
)
def test_losses_are_those_of_sentence_transformers(
    similarity: str, is_normal: bool, tmp_path: Path
) -> None:
    from sentence_transformers.sentence_transformer import losses

    folder = tiny.make_encoder(tmp_path / "a", prompts={"query": "w1 ", "document": "w2 "})
    if not is_normal:
        listed = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps(listed[:-1]))
    model = with_similarity(folder, similarity)
    scale = 20.0 if is_normal or similarity == "cosine" else 1.0

    def columns(rows: Sequence[Any], **encode: Callable[..., Any]) -> list[Tensor]:
        return [
            torch.tensor(made([row[key] for row in rows]).tolist(), dtype=torch.float64)
            for key, made in encode.items()
        ]

    embeddings = columns(
        RETRIEVAL,
        query=model.encode_query,
        positive=model.encode_document,
        negative=model.encode_document,
    )
    ranking = losses.MultipleNegativesRankingLoss(model, scale, model.similarity)
    theirs = ranking.compute_loss_from_embeddings(embeddings, torch.empty(0))
    ours = loss_of(folder, objective_of("retrieval", tmp_path))
    assert ours == pytest.approx(float(theirs), rel=1e-4)

    embeddings = columns(STS, sentence1=model.encode, sentence2=model.encode)
    order = losses.CoSENTLoss(model, scale, model.similarity_pairwise)
    scores = torch.tensor([float(row["score"]) for row in STS])
    theirs = order.compute_loss_from_embeddings(embeddings, scores)
    ours = loss_of(folder, objective_of("sts", tmp_path))
    assert ours == pytest.approx(float(theirs), rel=1e-4)


def test_a_right_passage_is_never_a_wrong_one(folder: Path, tmp_path: Path) -> None:
    """Of several right ones each counts without the others; one of two queries is no negative."""
    one = {"query": words(1), "positive": words(2), "negative": [words(3)]}
    other = {**one, "positive": words(4)}
    apart = [loss_of(folder, objective_of("retrieval", tmp_path, [row])) for row in (one, other)]
    both = {**one, "positive": [words(2), words(4)]}
    together = loss_of(folder, objective_of("retrieval", tmp_path, [both]))
    assert together == pytest.approx(sum(apart) / 2, rel=1e-4)
    repeated = [one, {**one, "query": words(1)}]
    assert loss_of(folder, objective_of("retrieval", tmp_path, repeated)) == pytest.approx(
        apart[0], rel=1e-4
    )


def test_labels_are_told_apart(folder: Path, tmp_path: Path) -> None:
    objective = objective_of("classification", tmp_path)
    model = with_similarity(folder, "cosine")
    labels = [row["label"] for row in objective.rows]
    texts = [row["text"] for row in objective.rows]
    vectors = torch.tensor(model.encode(texts).tolist(), dtype=torch.float64)
    similar, means = (20 * vectors @ vectors.T).exp(), []
    for i, label in enumerate(labels):
        same = [j for j, other in enumerate(labels) if other == label and j != i]
        wrong = sum(similar[i, j] for j, other in enumerate(labels) if other != label)
        means.append(
            sum(-(similar[i, j] / (similar[i, j] + wrong)).log() for j in same) / len(same)
        )
    expected = float(sum(means) / len(means))
    assert loss_of(folder, objective) == pytest.approx(expected, rel=1e-4)


def test_documents_of_different_labels_only_teach_nothing(folder: Path, tmp_path: Path) -> None:
    rows = [*CLASSIFICATION[:5]]  # two that are scored, with two labels
    assert loss_of(folder, objective_of("classification", tmp_path, rows)) == 0.0


def recipe(moved: dict[str, float]) -> Recipe:
    """Return a merge of two encoders; a weight of the blocks or of the head may be moved."""

    def layer(block: int | None, part: str) -> Layer:
        weight = 0.6 + moved.get(part, 0.0)
        sources = [Source("a", block, {"weight": weight}), Source("b", block, {"weight": 0.5})]
        return Layer("linear", sources)

    blocks = [layer(block, "blocks") for block in range(3)]
    ends = layer(None, "embeddings"), layer(None, "head")
    return Recipe("a", {"encoder.layer": blocks}, *ends, dtype="float64")


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("batch_size", ["auto", 4])
def test_slopes_equal_finite_differences(
    kind: str, batch_size: Any, folder: Path, tmp_path: Path
) -> None:
    """Through transformer and Dense; the batches make no difference, nor does saving memory."""
    other = tiny.make_encoder(tmp_path / "b", seed=1)
    checkpoints = {"a": Checkpoint.open(folder, "a"), "b": Checkpoint.open(other, "b")}
    resident = Resident(checkpoints, "a", "float64", encodes=True)
    objective, tokenizer = objective_of(kind, tmp_path), tokenizer_of(checkpoints["a"])
    loss, documents = prepared(objective, resident.apply(recipe({})), tokenizer, batch_size)
    loss.saves_memory, step = batch_size == 4, 0.01
    moves = [
        Move(recipe({part: -step}), recipe({part: step}), 2 * step)
        for part in ("blocks", "embeddings", "head")
    ]
    slopes = Slopes(resident, rates(resident.planner, moves), len(moves))
    with slopes.of(recipe({})) as (model, found):
        value = loss.backward(model, documents)
    assert value == pytest.approx(loss(resident.apply(recipe({})), documents), rel=1e-12)
    expected = [
        (loss(resident.apply(m.upper), documents) - loss(resident.apply(m.lower), documents))
        / m.distance
        for m in moves
    ]
    assert found == pytest.approx(expected, abs=0.01 * max(map(abs, expected)))
    assert all(abs(slope) > 1e-3 for slope in found)  # the head has the projection


def test_no_model_is_asked_for_the_form_of_answers(folder: Path, tmp_path: Path) -> None:
    opened = Checkpoint.open(folder, "a")
    model: nn.Module = load(opened, "cpu", causal=False, modules=opened)
    loss, documents = prepared(objective_of("sts", tmp_path), model, tokenizer_of(opened))
    assert loss.without_form(documents) == {}
