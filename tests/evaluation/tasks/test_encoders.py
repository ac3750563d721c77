"""Texts are encoded, and encoders scored on rows of a file, as sentence-transformers does it."""

import json
import math

import numpy as np
import pytest
import tiny
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression
from stock_scores import UNIT, near_ties

from evomerge.evaluation.objectives import KINDS
from evomerge.evaluation.tasks import encoders
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint

sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = [
    *("w1 w2 w3", " W4  w5 ", "unknown words", "w9", "w1 w2 w3"),
    " ".join(f"w{i}" for i in range(40)),
    *(" ".join(f"w{(i * j) % 44}" for j in range(1, 2 + i)) for i in range(12)),
]

PROMPTS = {"query": "w7 w8 ", "document": "w20 ", "other": "w30 w31 w32 "}

HEAD = {"architectures": ["Qwen3ForCausalLM"]}
DEFAULT = {"prompts": PROMPTS, "default_prompt": "other"}
SBERT, ST = "sentence_bert_config.json", "config_sentence_transformers.json"
CASES = {
    "no projection": ({"dense": 0}, {}),
    "cls": ({"pooling": "cls"}, {}),
    "max": ({"pooling": "max"}, {}),
    "last token": ({"pooling": "lasttoken"}, {}),
    "weighted mean": ({"pooling": "weightedmean"}, {}),
    "two poolings": ({"pooling": ["mean", "cls"], "dense": 0}, {}),
    "prompts": ({"prompts": PROMPTS}, {}),
    "a default prompt": (DEFAULT, {}),
    "prompts that are not pooled": ({**DEFAULT, "include_prompt": False}, {}),
    "decoder": ({"architecture": "qwen3", "pooling": "lasttoken"}, {}),
    "encoder and decoder": ({"architecture": "t5"}, {}),
    "a length": ({"length": 10}, {SBERT: {"max_seq_length": 5}}),
    "small letters": ({"length": 10}, {SBERT: {"do_lower_case": True}}),
    "fewer numbers": ({"length": 10}, {ST: {"truncate_dim": 3}}),
    "a passage prompt": ({"length": 10}, {ST: {"prompts": {"passage": "w2 "}}}),
    "a head that is not there": ({"architecture": "qwen3"}, {"config.json": HEAD}),
}
"""How a model is made, and what its files say then."""


def opened(folder):
    checkpoint = Checkpoint.open(folder, "model")
    return load(checkpoint, "cpu", causal=False, parts={"modules"}), tokenizer_of(checkpoint)


def encoded(folder, role, **how):
    return encoders.encoded(encoders.library_of(*opened(folder)), TEXTS, role, **how).numpy()


def by_library(folder, role):
    encode = getattr(library_of(folder), role)
    return encode(TEXTS, convert_to_tensor=True).double().numpy()


def check(folder):
    for role in ("encode", "encode_query", "encode_document"):
        ours, theirs = encoded(folder, role), by_library(folder, role)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=UNIT)
    assert abs(theirs - theirs[0]).max() > 1e-3  # texts differ


@pytest.mark.parametrize("case", CASES)
def test_embeddings_are_those_of_the_library(case, tmp_path):
    how, files = CASES[case]
    folder = tiny.make_encoder(tmp_path / "a", **how)
    for file, changes in files.items():
        data = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(data | changes))
    check(folder)


def test_files_of_former_versions_are_read(tmp_path):
    folder = tiny.make_encoder(tmp_path / "a", pooling="cls")
    theirs = by_library(folder, "encode")
    old = {"word_embedding_dimension": 16, "pooling_mode_cls_token": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old))
    (folder / "3_Normalize" / "config.json").unlink()
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 16}))
    modules = json.loads((folder / "modules.json").read_text())
    for item in modules:
        item["type"] = f"sentence_transformers.models.{item['type'].rpartition('.')[2]}"
    (folder / "modules.json").write_text(json.dumps(modules))
    new = tiny.make_encoder(tmp_path / "b", pooling="cls")
    np.testing.assert_allclose(encoded(folder, "encode"), theirs, rtol=1e-5, atol=UNIT)
    settings = [dict(Checkpoint.open(item, "x").modules.plain()) for item in (folder, new)]
    assert settings[0] == settings[1]


def words(*numbers):
    return " ".join(f"w{number % 44}" for number in numbers)


def objective_of(kind, folder, rows=None):
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows or ROWS[kind])))
    return KINDS.get(kind).load(kind, str(file))


def values_of(folder, objective):
    """Return metric -> what the model in a folder has on all documents."""
    return objective.measure(*opened(folder), range(objective.task.documents))


def scored(folder, objective):
    """Return the scores of the model in a folder on all documents."""
    found = values_of(folder, objective)
    return {metric: objective.aggregate(metric, values) for metric, values in found.items()}


STS = [(words(i, i + 1), words(i * i, 3), i * 5 % 7) for i in range(30)]
RIGHT = [[words(i, 5), words(i + 1, 9, i)] if i % 3 else words(i, 5) for i in range(20)]
KNOWN = [(words(i, 3 * i), "ab"[i * i % 5 > 1], i % 2 == 0) for i in range(40)]
ROWS = {
    "sts": [{"sentence1": one, "sentence2": two, "score": score} for one, two, score in STS],
    "retrieval": [
        {"query": words(i, i + 2), "positive": right, "negative": [words(7 * i, 2)]}
        for i, right in enumerate(RIGHT)
    ],
    "classification": [{"text": a, "label": label, "train": train} for a, label, train in KNOWN],
}
ROLES = {"query": "w1 ", "document": "w2 "}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make_encoder(tmp_path_factory.mktemp("encoder") / "a", prompts=ROLES)


def library_of(folder):
    with tiny.quiet():
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


@pytest.fixture(scope="module")
def library(folder):
    return library_of(folder)


def test_correlations_are_those_of_scipy_on_the_library_s_embeddings(folder, library, tmp_path):
    found = scored(folder, objective_of("sts", tmp_path))
    one, two = (library.encode([row[f"sentence{i}"] for row in ROWS["sts"]]) for i in (1, 2))
    similar = library.similarity_pairwise(one, two).numpy()
    gold = [row["score"] for row in ROWS["sts"]]
    # Two pairs that swap move it by 12 / n^2.
    room = 12 / len(gold) ** 2 if near_ties(similar) else 1e-6
    assert found["spearman"] == pytest.approx(spearmanr(similar, gold).statistic, abs=room)
    assert found["pearson"] == pytest.approx(pearsonr(similar, gold).statistic, abs=1e-4)
    equal = [{**row, "score": 1} for row in ROWS["sts"]]
    assert math.isnan(scored(folder, objective_of("sts", tmp_path, equal))["spearman"])


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_retrieval_is_that_of_the_library(tmp_path, similarity):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    other = tiny.make_encoder(tmp_path / "a", prompts=ROLES)
    settings = other / "config_sentence_transformers.json"
    data = json.loads(settings.read_text()) | {"similarity_fn_name": similarity}
    settings.write_text(json.dumps(data))
    found = scored(other, objective_of("retrieval", tmp_path))
    model = library_of(other)
    rights = [right if isinstance(right, list) else [right] for right in RIGHT]
    rows = [{**row, "positive": own} for row, own in zip(ROWS["retrieval"], rights, strict=True)]
    texts = dict.fromkeys(t for row in rows for t in (*row["positive"], *row["negative"]))
    theirs = InformationRetrievalEvaluator(
        {str(i): row["query"] for i, row in enumerate(rows)},
        {text: text for text in texts},
        {str(i): set(row["positive"]) for i, row in enumerate(rows)},
        precision_recall_at_k=[10],
        write_csv=False,
    )(model)
    queries = model.encode_query([row["query"] for row in rows])
    scores = model.similarity(queries, model.encode_document(list(texts))).numpy()
    right = np.array([[text in row["positive"] for text in texts] for row in rows])
    pairs = zip(scores, right, strict=True)
    apart = min(abs(own[hits][:, None] - own[~hits]).min() for own, hits in pairs)
    room = 0.02 if apart < 3e-6 else 1e-9  # a right and a wrong passage may swap
    for metric in ("ndcg@10", "mrr@10", "recall@10"):
        assert found[metric] == pytest.approx(theirs[f"{similarity}_{metric}"], abs=room), metric
    assert 0.05 < found["ndcg@10"] < 0.95


def test_the_order_of_the_file_does_not_rank_passages_that_are_equally_similar(folder, tmp_path):
    """The encoder reads 16 tokens, so pairs of passages are one text for it."""
    texts = [(words(i, 2 * i), words(*range(i // 2, i // 2 + 20), i)) for i in range(12)]
    rows = [{"query": query, "positive": passage} for query, passage in texts]
    both = (objective_of("retrieval", tmp_path, own) for own in (rows, rows[::-1]))
    found, turned = (values_of(folder, own)["ndcg@10"] for own in both)
    assert found == turned[::-1]
    assert 0 < max(found) <= 1 / math.log2(3) + 1e-9, "a tie is no success"


def test_a_probe_learns_from_the_training_rows_only(folder, library, tmp_path):
    objective = objective_of("classification", tmp_path)
    assert objective.task.documents == 20
    found = scored(folder, objective)
    train, test = ROWS["classification"][::2], ROWS["classification"][1::2]
    probe = LogisticRegression(max_iter=1000)
    probe.fit(library.encode([r["text"] for r in train]), [r["label"] for r in train])
    answers = probe.predict(library.encode([r["text"] for r in test]))
    right = [answer == row["label"] for answer, row in zip(answers, test, strict=True)]
    assert found["accuracy"] == np.mean(right)
    assert 0.2 < found["accuracy"] < 1
