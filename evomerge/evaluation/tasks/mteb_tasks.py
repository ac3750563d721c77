"""Tasks of MTEB, by the package mteb: their data sets as rows, scored as rows of a file are.

mteb's main score and ours are the same number for three types of tasks: STS, Retrieval, and
Classification, whose probes learn from few texts of each label, several times.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.errors import ConfigError, one_line
from evomerge.evaluation.inference.quiet import quiet
from evomerge.evaluation.tasks.encoders import (
    Classification,
    Encode,
    EncoderObjective,
    Retrieval,
    Similarity,
    Sts,
)
from evomerge.evaluation.tasks.rows import BatchSize, Row

_SCORES = {
    "cosine_spearman": "spearman",
    "spearman": "spearman",
    "cosine_pearson": "pearson",
    "pearson": "pearson",
    "ndcg_at_10": "ndcg@10",
    "recall_at_10": "recall@10",
    "mrr_at_10": "mrr@10",
    "accuracy": "accuracy",
}
"""mteb's name of a score -> ours."""

_TYPES = ("STS", "Retrieval", "Classification")


class _Retrieval(Retrieval):
    """Retrieval of passages of a corpus, most of which belong to no query."""

    def __init__(self, *given: Any, corpus: Sequence[str]) -> None:
        super().__init__(*given)
        self._passages = {text: place for place, text in enumerate(dict.fromkeys(corpus))}


class _Classification(Classification):
    """The share of several probes that find the label of a text, each with own training rows."""

    iterations = 100

    def __init__(self, *given: Any, experiments: Sequence[Sequence[int]]) -> None:
        super().__init__(*given)
        self._experiments = experiments

    def _measured(
        self, rows: Sequence[Row], encode: Encode, similarity: Similarity
    ) -> dict[str, tuple[Any, ...]]:
        texts = [row["text"] for row in (*self._train, *rows)]
        train, test = np.split(encode(texts, "text").numpy(), [len(self._train)])
        labels, wanted = [[row["label"] for row in of] for of in (self._train, rows)]
        right = [
            np.asarray(self._found(train[own], [labels[i] for i in own], test)) == wanted
            for own in map(list, self._experiments)
        ]
        return {"accuracy": tuple(np.mean(right, axis=0).tolist())}


def load_mteb(task: str, batch_size: BatchSize, name: str | None) -> EncoderObjective:
    """Load a task of mteb as an objective; its attribute `main` is the metric of its main score.

    Args:
        task: name of the task; of one with several subsets `NAME/SUBSET`.
        name: the objective's name; None: it is named by the task.

    Raises:
        ConfigError: mteb is not installed, has no such task, or cannot load its data; or the task
            is of another type, or has no or another such subset.
    """
    wanted, _, subset = task.partition("/")
    try:
        import mteb
    except ImportError as error:
        raise ConfigError(
            f"objectives: {task!r} is a task of mteb, which is not installed; run "
            "`pip install 'evomerge[mteb]'`."
        ) from error
    try:
        found = mteb.get_task(wanted)
    except KeyError as error:
        raise ConfigError(
            f"objectives: mteb has no task {wanted!r} ({one_line(error).strip(chr(34))}); "
            "`mteb.get_tasks()` lists them."
        ) from error
    kind, subsets = found.metadata.type, list(found.hf_subsets)
    is_plain = list(found.modalities) == ["text"] and not _differs(found)
    if kind not in _TYPES or not is_plain:
        raise ConfigError(
            f"objectives: {wanted!r} is a task of mteb of the type {kind}"
            f"{'' if is_plain else ' with settings of its own'}, and plain texts of the types "
            f"{', '.join(_TYPES)} can be scored; take another task."
        )
    if (subset or subsets[0]) not in subsets or (not subset and len(subsets) > 1):
        raise ConfigError(
            f"objectives: {task!r} has to name a subset of mteb's {wanted}, as "
            f"{wanted}/{subsets[0]}; it has {', '.join(subsets)}."
        )
    chosen, is_multilingual = subset or subsets[0], found.metadata.is_multilingual
    try:
        with quiet(bars=True):
            if is_multilingual:  # the other subsets are not fetched
                found = mteb.get_task(wanted, hf_subsets=[chosen])
            found.load_data()
            if kind == "Retrieval":  # older tasks fill other attributes
                found.convert_v1_dataset_format_to_v2(num_proc=None)
    except Exception as error:  # the data set is fetched from the Hub, or read in any format
        raise ConfigError(
            f"objectives: mteb cannot load the data of {wanted!r} ({one_line(error).rstrip('.')}); "
            "check the connection, or load it once where there is one."
        ) from error
    data = found.dataset[chosen] if is_multilingual or kind == "Retrieval" else found.dataset
    split = "test" if "test" in found.eval_splits else found.eval_splits[0]
    make = {"STS": _sts, "Retrieval": _retrieval, "Classification": _classification}[kind]
    made = make(found, data, split, batch_size, name or f"mteb {task.replace('/', ' ')}")
    made.main = _SCORES.get(found.metadata.main_score)
    return made


def _differs(task: Any) -> bool:
    """Whether a task has a setting by which its scores are not those of its type."""
    names = ("ignore_identical_ids", "skip_first_result", "is_cross_validation")
    return any(getattr(task, name, False) for name in names) or any(
        getattr(task, name, None) is not None
        for name in ("input1_prompt_type", "input2_prompt_type")
    )


def _digest(rows: Sequence[Mapping[str, Any]], *more: Any) -> str:
    return hashlib.sha256(json.dumps([rows, *more]).encode()).hexdigest()


def _sts(task: Any, data: Any, split: str, batch_size: BatchSize, name: str) -> EncoderObjective:
    columns = zip(*(data[split][key] for key in (*task.column_names, "score")), strict=True)
    rows = [dict(zip(Sts.needed, map(_plain, items), strict=True)) for items in columns]
    return Sts(name, rows, _digest(rows), batch_size)


def _retrieval(
    task: Any, data: Any, split: str, batch_size: BatchSize, name: str
) -> EncoderObjective:
    of_split = data[split]
    texts = {
        item["id"]: f"{item.get('title') or ''} {item['text']}".strip()
        for item in of_split["corpus"]
    }
    rows = []
    for item in of_split["queries"]:
        grades = of_split["relevant_docs"].get(item["id"], {})
        right = [texts[key] for key, grade in grades.items() if grade > 0]
        if max(grades.values(), default=0) > 1 or item.get("instruction"):
            raise ConfigError(
                f"objectives: the query {item['id']!r} of {name} has an instruction, or passages "
                "that are more or less relevant, which are not scored here; take another task."
            )
        if right:
            rows.append({"query": item["text"], "positive": right, "negative": []})
    corpus = list(texts.values())
    return _Retrieval(name, rows, _digest(rows, corpus), batch_size, corpus=corpus)


def _classification(
    task: Any, data: Any, split: str, batch_size: BatchSize, name: str
) -> EncoderObjective:
    def rows(part: str, *, train: bool) -> list[dict[str, Any]]:
        texts, labels = data[part][task.input_column_name], data[part][task.label_column_name]
        return [
            {"text": text, "label": str(label), "train": train}
            for text, label in zip(texts, labels, strict=True)
        ]

    known = rows(task.train_split, train=True)
    order, drawn = list(range(len(known))), []
    for _ in range(task.n_experiments):
        np.random.RandomState(task.seed).shuffle(order)
        counts: Counter[str] = Counter()
        own = []
        for place in order:
            counts[known[place]["label"]] += 1
            if counts[known[place]["label"]] <= task.samples_per_label:
                own.append(place)
        drawn.append(own)
    used = sorted({place for own in drawn for place in own})
    experiments = [[used.index(place) for place in own] for own in drawn]
    every = [*(known[place] for place in used), *rows(split, train=False)]
    digest = _digest(every, experiments)
    return _Classification(name, every, digest, batch_size, experiments=experiments)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
