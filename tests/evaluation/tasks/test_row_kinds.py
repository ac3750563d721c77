"""Objectives with rows of a file: the metrics of classifiers, reward models, sentence encoders."""

import json
import math

import numpy as np
import pytest
import tiny
import torch
import transformers
from rounding import near_ties
from safetensors.torch import load_file, save_file
from scipy.stats import pearsonr, spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from evomerge.errors import CandidateError
from evomerge.evaluation.tasks.files import load_objective
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint

sentence_transformers = pytest.importorskip("sentence_transformers")

LABELS = ["red", "green", "blue"]


def words(*numbers):
    return " ".join(f"w{number % 44}" for number in numbers)


def objective_of(kind, folder, rows=None):
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows or ROWS[kind])))
    return load_objective(kind, str(file))


def values_of(folder, objective):
    """Return metric -> what the model in a folder has on all documents."""
    opened = Checkpoint.open(folder, "a")
    modules = opened if opened.modules else None
    model = load(opened, "cpu", causal=False, modules=modules)
    return objective(model, tokenizer_of(opened), range(objective.info.documents))


def scored(folder, objective):
    """Return the scores of the model in a folder on all documents."""
    found = values_of(folder, objective)
    return {metric: objective.aggregate(metric, values) for metric, values in found.items()}


TEXTS = [
    {"text": words(i, 3 * i), "label": LABELS[i * i % 3] if i % 2 else i % 3} for i in range(30)
]
PAIRS = [{"text": words(i), "text_pair": words(i * i), "label": i % 3} for i in range(20)]
CHOSEN = [{"chosen": words(i, 7 * i), "rejected": words(5, i * i % 40)} for i in range(30)]


@pytest.mark.parametrize("rows", [TEXTS, PAIRS], ids=["texts", "pairs"])
def test_labels_of_texts_are_those_of_the_pipeline(rows, tmp_path):
    model = tiny.make_classifier(tmp_path / "a", labels=LABELS)
    found = scored(model, objective_of("labels", tmp_path, rows))
    with tiny.quiet():
        pipeline = transformers.pipeline("text-classification", model=str(model), device="cpu")
        inputs = [{key: row[key] for key in ("text", "text_pair") if key in row} for row in rows]
        theirs = [pipeline(item)["label"] for item in inputs]
    given = [row["label"] for row in rows]
    right = [label if isinstance(label, str) else LABELS[label] for label in given]
    assert found["accuracy"] == np.mean([a == b for a, b in zip(theirs, right, strict=True)])
    assert found["f1"] == pytest.approx(f1_score(right, theirs, average="macro"), abs=1e-12)
    assert len(set(theirs)) > 1 and found["f1"] != found["accuracy"]


FORMS = {
    "texts": CHOSEN,
    "with a prompt": [{"prompt": "w9 ", **row} for row in CHOSEN],
    "messages": [
        {
            "prompt": [{"role": "user", "content": "w1"}],
            **{key: [{"role": "assistant", "content": row[key]}] for key in ("chosen", "rejected")},
        }
        for row in CHOSEN
    ],
}


@pytest.mark.parametrize("form", FORMS)
def test_the_chosen_answer_has_the_higher_score(form, tmp_path):
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    folder = tiny.make_classifier(tmp_path / "a", "llama", ["score"], template=template)
    rows = FORMS[form]
    found = scored(folder, objective_of("pairwise", tmp_path, [*rows, dict(rows[0])]))
    with tiny.quiet():
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)

    def score(row, key):
        if form == "messages":
            messages = [*row["prompt"], *row[key]]
            tokens = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=True)
        else:
            tokens = tokenizer(row.get("prompt", "") + row[key], return_tensors="pt")
        with torch.no_grad():
            return float(model(tokens["input_ids"]).logits[0, 0])

    right = [
        0.5 if row["chosen"] == row["rejected"] else score(row, "chosen") > score(row, "rejected")
        for row in [*rows, rows[0]]
    ]
    assert found == {"pairwise": pytest.approx(np.mean(right), abs=1e-12)}
    assert 0.1 < found["pairwise"] < 0.9


def test_a_prompt_is_a_text_of_its_own_before_a_separator(tmp_path):
    folder = tiny.make_classifier(tmp_path / "a", labels=["score"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"sep_token": "<eos>"})
    row = {"prompt": "w1", "chosen": "w2", "rejected": "w3"}
    pairs = objective_of("pairwise", tmp_path, [row])
    read = [item.texts for item in pairs._inputs(pairs.rows[0], tokenizer)]
    assert read == [("w1", "w2"), ("w1", "w3")]


ROWS = {
    "sts": [
        {"sentence1": words(i, i + 1), "sentence2": words(i * i, 3), "score": i * 5 % 7}
        for i in range(30)
    ],
    "retrieval": [
        {
            "query": words(i, i + 2),
            "positive": [words(i, 5), words(i + 1, 9, i)] if i % 3 else words(i, 5),
            "negative": [words(7 * i, 2)],
        }
        for i in range(20)
    ],
    "classification": [
        {"text": words(i, 3 * i), "label": "ab"[i * i % 5 > 1], "train": i % 2 == 0}
        for i in range(40)
    ],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    prompts = {"query": "w1 ", "document": "w2 "}
    return tiny.make_encoder(tmp_path_factory.mktemp("encoder") / "a", prompts=prompts)


@pytest.fixture(scope="module")
def library(folder):
    with tiny.quiet():
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def test_correlations_are_those_of_scipy_on_the_library_s_embeddings(folder, library, tmp_path):
    found = scored(folder, objective_of("sts", tmp_path))
    one, two = (library.encode([row[f"sentence{i}"] for row in ROWS["sts"]]) for i in (1, 2))
    similar = library.similarity_pairwise(one, two).numpy()
    gold = [row["score"] for row in ROWS["sts"]]
    # Two pairs that swap move it by 12 / n^2.
    room = 12 / len(gold) ** 2 if near_ties(similar) else 1e-6
    assert found["spearman"] == pytest.approx(spearmanr(similar, gold).statistic, abs=room)
    assert found["pearson"] == pytest.approx(pearsonr(similar, gold).statistic, abs=1e-4)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_retrieval_is_that_of_the_library(library, folder, tmp_path, similarity):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    other = tiny.make_encoder(tmp_path / "a", prompts={"query": "w1 ", "document": "w2 "})
    settings = other / "config_sentence_transformers.json"
    data = json.loads(settings.read_text()) | {"similarity_fn_name": similarity}
    settings.write_text(json.dumps(data))
    found = scored(other, objective_of("retrieval", tmp_path))
    with tiny.quiet():
        model = sentence_transformers.SentenceTransformer(str(other), device="cpu")
    rows = [
        row if isinstance(row["positive"], list) else {**row, "positive": [row["positive"]]}
        for row in ROWS["retrieval"]
    ]
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
    apart = min(
        abs(own[hits][:, None] - own[~hits]).min() for own, hits in zip(scores, right, strict=True)
    )
    room = 0.02 if apart < 3e-6 else 1e-9  # a right and a wrong passage may swap
    for metric in ("ndcg@10", "mrr@10", "recall@10"):
        assert found[metric] == pytest.approx(theirs[f"{similarity}_{metric}"], abs=room), metric
    assert 0.05 < found["ndcg@10"] < 0.95


def test_the_order_of_the_file_does_not_rank_passages_that_are_equally_similar(folder, tmp_path):
    """The encoder reads 16 tokens, so pairs of passages are one text for it."""
    rows = [
        {"query": words(i, 2 * i), "positive": words(*range(i // 2, i // 2 + 20), i)}
        for i in range(12)
    ]
    found, turned = (
        values_of(folder, objective_of("retrieval", tmp_path, own))["ndcg@10"]
        for own in (rows, rows[::-1])
    )
    assert found == turned[::-1]
    assert all(value <= 1 / math.log2(3) + 1e-9 for value in found), "a tie is no success"
    assert any(found)


@pytest.mark.parametrize("kind", ROWS)
def test_an_encoder_that_tells_no_texts_apart_is_a_failure(kind, tmp_path):
    """With the order of the file, its nDCG was that of the queries whose passages come first."""
    collapsed = tiny.make_encoder(tmp_path / "a")
    (file,) = collapsed.glob("*_Dense/model.safetensors")
    tensors = load_file(file)
    save_file(tensors | {"linear.weight": tensors["linear.weight"] * 1e-9}, file)
    with pytest.raises(
        CandidateError, match=rf"collapsed: it gives all \d+ .* of '{kind} .* the s"
    ):
        scored(collapsed, objective_of(kind, tmp_path))


def test_a_probe_learns_from_the_training_rows_only(folder, library, tmp_path):
    objective = objective_of("classification", tmp_path)
    assert objective.info.documents == 20
    found = scored(folder, objective)
    train, test = (
        [row for row in ROWS["classification"] if row["train"] is wanted]
        for wanted in (True, False)
    )
    probe = LogisticRegression(max_iter=1000)
    probe.fit(library.encode([r["text"] for r in train]), [r["label"] for r in train])
    answers = probe.predict(library.encode([r["text"] for r in test]))
    assert found["accuracy"] == np.mean(
        [a == r["label"] for a, r in zip(answers, test, strict=True)]
    )
    assert 0.2 < found["accuracy"] < 1


def test_equal_scores_have_no_correlation(folder, tmp_path):
    rows = [{**row, "score": 1} for row in ROWS["sts"]]
    assert math.isnan(scored(folder, objective_of("sts", tmp_path, rows))["spearman"])
