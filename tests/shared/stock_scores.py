"""What the world's own tools say of an exported model on the same documents, and how far two
computations of one number in float32 may be apart.

They differ if batches, padding, instruction set, BLAS kernels or threads differ, since sums have
another order then. A tolerance that fits one processor says nothing of the next, so these come from
the arithmetic: u = 2^-24 is the rounding of one operation.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import small_models
import tiny
import torch
import transformers

from evomerge import zoo
from evomerge.scores import Scores

NATS = 1e-4
"""Log-likelihoods of the tests' texts: up to 20 tokens, each a log-softmax of logits up to 20,
are sums with an error of some u * 20. Absolute, since a likelihood near 0 nats has it, too."""

UNIT = 1e-5
"""Numbers of about 1 that came through a few layers, such as embeddings: 100 terms of up to 1, so
some sqrt(100) * u for each layer."""

PERPLEXITY = 1e-4
"""Perplexities and other exponentials of nats, relative: the absolute error of their logarithm."""


def near_ties(values: Any) -> bool:
    """Whether rounding may swap two of the numbers of about 1 in some row of `values`."""
    return bool(np.diff(np.sort(np.asarray(values), axis=-1)).min() < 3e-6)


def by_stock(
    search: Mapping[str, Any], compute: str, model: Path, recorded: Scores
) -> dict[str, float]:
    """Return scores, by the keys of `recorded.aggregates`, as far as a stock tool has them.

    `compute` is the dtype in which the search has computed.
    """
    found: dict[str, float] = {}
    tasks = {name: ids for name, ids in recorded.documents.items() if not set(": ") & set(name)}
    if tasks and "generation" not in search["evaluation"]:
        found |= by_lm_eval(search, compute, model, tasks)
    for name, ids in recorded.documents.items():
        rows = [small_models.rows()[name.split()[1]][i] for i in ids] if " " in name else []
        if name.startswith("classifier"):
            found |= {f"{name}/{key}": value for key, value in by_library(model, rows).items()}
        elif name.startswith("sts"):
            found |= similar(model, name, rows)
        elif ":" in name:
            names: dict[str, Any] = {}
            exec(small_models.JUDGE, names)
            with tiny.quiet():
                loaded = transformers.AutoModelForCausalLM.from_pretrained(model)
            values = names["judge"](loaded, None, ids)["size"]
            found[f"{name}/size"] = float(np.mean(values))
    return {key: value for key, value in found.items() if key in recorded.aggregates}


def by_lm_eval(
    search: Mapping[str, Any], compute: str, model: Path, tasks: Mapping[str, Any]
) -> dict[str, float]:
    """Return what `lm_eval` prints for these documents of its tasks."""
    import lm_eval
    from lm_eval.models.hf_vlms import HFMultimodalLM
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    evaluation = search["evaluation"]
    about: dict[str, Any] = {"pretrained": str(model), "device": "cpu", "batch_size": 1}
    about["dtype"] = compute
    config = transformers.AutoConfig.from_pretrained(model)
    if config.model_type == "llava":
        lm = HFMultimodalLM(**about)
    else:
        lm = HFLM(**about, backend="seq2seq" if config.is_encoder_decoder else "causal")
    include = [str(zoo.tasks_path()) if f == "zoo:tasks" else f for f in evaluation["include"]]
    report = lm_eval.simple_evaluate(
        model=lm, tasks=list(tasks), bootstrap_iters=0,
        task_manager=TaskManager(include_path=include, include_defaults=False),
        samples={name: list(ids) for name, ids in tasks.items()},
        apply_chat_template=evaluation.get("chat_template", False),
    )  # fmt: skip
    return {
        f"{task}/{metric.split(',')[0]}": value
        for task, values in report["results"].items()
        for metric, value in values.items()
        if isinstance(value, float)
    }


@torch.no_grad()
def by_library(folder: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the scores of rows, one by one, with transformers and scikit-learn only."""
    from sklearn.metrics import f1_score

    kind = transformers.AutoModelForSequenceClassification
    with tiny.quiet():
        model, told = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if "chosen" in rows[0]:

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


def similar(folder: Path, name: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the rank correlation by sentence-transformers, unless rounding may swap ranks."""
    from scipy.stats import spearmanr
    from sentence_transformers import SentenceTransformer

    with tiny.quiet():
        model = SentenceTransformer(str(folder), device="cpu")
    one, two = (model.encode([row[f"sentence{n}"] for row in rows]) for n in (1, 2))
    values = model.similarity_pairwise(one, two).numpy()
    if near_ties(values):
        return {}
    return {f"{name}/spearman": spearmanr(values, [row["score"] for row in rows]).statistic}
