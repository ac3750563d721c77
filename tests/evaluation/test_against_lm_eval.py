"""Scores equal lm-eval's, for every request type and several architectures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lm_eval
import lm_eval.evaluator
import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from rounding import NATS, PERPLEXITY

from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.reference import Reasoning
from evomerge.evaluation.tasks.harness import Harness
from evomerge.scores import Scores


@pytest.fixture(autouse=True)
def no_look_at_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out that lm-eval asks pip, git and the processor for its report, in new processes."""
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda report: None)
    monkeypatch.setattr(lm_eval.evaluator, "get_git_commit_hash", lambda: None)


IDS = (0, 3, 4, 7, 11, 12, 20, 25, 26, 31, 38, 39)


def reference(
    model: Any, tokenizer: Any, tasks: Path, names: Sequence[str], **options: Any
) -> dict[str, Any]:
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1),
        tasks=list(names),
        task_manager=manager,
        samples={name: list(IDS) for name in names},
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )


def ours(
    model: Any,
    tokenizer: Any,
    tasks: Path,
    names: Sequence[str],
    batch_size: int | Literal["auto"] = "auto",
    **options: Any,
) -> tuple[Evaluator, Scores]:
    harness = Harness(names, [tasks], **options)
    evaluator = Evaluator(harness, batch_size=batch_size)
    leaves = [leaf for name in names for leaf in harness.info.leaves(name)]
    evaluator.prepare(model, tokenizer, {"search": dict.fromkeys(leaves, IDS)})
    return evaluator, evaluator.score(model)


def assert_equal(evaluator: Evaluator, scores: Scores, expected: dict[str, Any]) -> None:
    for task, ids in scores.documents.items():
        samples = expected["samples"][task]
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        for label in filters:
            rows = {s["doc_id"]: s for s in samples if s["filter"] == label}
            assert sorted(rows) == sorted(ids)
            for metric in rows[ids[0]]["metrics"]:
                suffix = f",{label}" if len(filters) > 1 else ""
                aggregate = expected["results"][task][f"{metric},{label}"]
                assert scores.aggregates[f"{task}/{metric}{suffix}"] == pytest.approx(
                    aggregate, rel=PERPLEXITY
                )
                values = scores.values.get(f"{task}/{metric}{suffix}")
                if isinstance(rows[ids[0]][metric], (int, float)):
                    assert values is not None
                    np.testing.assert_allclose(
                        values, [rows[i][metric] for i in ids], rtol=PERPLEXITY
                    )
        answers = {s["doc_id"]: s["resps"] for s in samples}
        requests = evaluator.requests("search", task)
        for i in ids:
            for request, (theirs,) in zip(requests[i], answers[i], strict=True):
                mine = request.instance.resps[0]
                if isinstance(mine, str):
                    assert mine == theirs
                else:
                    np.testing.assert_allclose(np.array(mine), np.array(theirs), atol=NATS)


SCORED = ("t_choice", "t_letter", "t_mutual", "t_inputs", "t_continue", "t_rolling")
GENERATED = ("t_generate", "t_filters")


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize("shots", [0, 2], ids=["zero-shot", "two-shot"])
def test_every_request_type_gives_lm_evals_scores(
    llama: torch.nn.Module, tokenizer: Any, tasks: Path, shots: int, chat: bool
) -> None:
    names = (*SCORED, *GENERATED)
    expected = reference(
        llama, tokenizer, tasks, names, num_fewshot=shots or None, apply_chat_template=chat
    )
    evaluator, scores = ours(
        llama, tokenizer, tasks, names, fewshot=shots or None, apply_chat_template=chat
    )
    assert evaluator.forward.packed and evaluator.forward.gather and evaluator.forward.own_loop
    assert_equal(evaluator, scores, expected)


def test_every_architecture_gives_lm_evals_scores(
    any_model: torch.nn.Module, tokenizer: Any, tasks: Path
) -> None:
    names = ("t_choice", "t_letter", "t_rolling", "t_generate")
    expected = reference(any_model, tokenizer, tasks, names)
    evaluator, scores = ours(any_model, tokenizer, tasks, names)
    assert_equal(evaluator, scores, expected)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gemma2"])
def test_at_batch_size_1_every_bit_is_lm_evals_in_bfloat16(
    make_model: Any, tokenizer: Any, tasks: Path, kind: str
) -> None:
    model = make_model(kind, torch.bfloat16)
    names = (*SCORED, *GENERATED) if kind == "llama" else ("t_choice", "t_rolling", "t_generate")
    expected = reference(model, tokenizer, tasks, names)
    evaluator, scores = ours(model, tokenizer, tasks, names, batch_size=1)
    assert evaluator.forward.own_loop
    for task, ids in scores.documents.items():
        theirs = {sample["doc_id"]: sample["resps"] for sample in expected["samples"][task]}
        for document in ids:
            requests = evaluator.requests("search", task)[document]
            assert [[request.instance.resps[0]] for request in requests] == theirs[document]


@pytest.mark.parametrize("name", ["g_sizes", "g_plain", "g_nested_sizes", "g_nested"])
def test_groups_average_as_lm_evals_groups(
    llama: torch.nn.Module, tokenizer: Any, tasks: Path, name: str
) -> None:
    """A task that is in two nested groups counts twice."""
    samples = {"t_choice": list(IDS), "t_letter": [1, 2, 3]}
    samples |= {"t_inputs": [5, 6]} if "nested" in name else {}
    expected = lm_eval.simple_evaluate(
        model=HFLM(pretrained=llama, tokenizer=tokenizer, batch_size=1),
        tasks=[name],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        samples=samples | {f"{name}::{task}": ids for task, ids in samples.items()},  # since 0.5
        bootstrap_iters=0,
        log_samples=False,
    )
    evaluator = Evaluator(Harness([name], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": samples})
    scores = evaluator.score(llama)
    assert scores.aggregates[f"{name}/acc"] == pytest.approx(expected["results"][name]["acc,none"])


@pytest.mark.parametrize(
    ("members", "filters"),
    [
        (["t_one", "t_two"], "plain"),
        (["t_one", "t_two"], ["plain"]),
        (["t_one", "t_two"], None),
        (["t_one", "t_both"], ["plain"]),
        (["t_one", "t_both"], ["strict", "plain"]),
        (["t_both", "t_one"], None),
    ],
)
def test_groups_average_the_filters_that_they_name(
    llama: torch.nn.Module,
    tokenizer: Any,
    tasks: Path,
    tmp_path: Path,
    members: list[str],
    filters: str | list[str] | None,
) -> None:
    """As in bbh, mmlu_pro and kormedmcqa: a task has one filter, and its group names it."""
    body = json.loads((tasks / "t_choice.yaml").read_text())
    several = [
        {"name": name, "filter": [{"function": "take_first"}]} for name in ("strict", "plain")
    ]
    for name, own in (("t_one", several[1:]), ("t_two", several[1:]), ("t_both", several)):
        made = body | {"task": name, "filter_list": own, "doc_to_text": f"{name} {{{{question}}}}"}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(made))
    average: dict[str, Any] = {"metric": "acc", "aggregation": "mean", "weight_by_size": True}
    if filters is not None:
        average["filter_list"] = filters
    group = {"group": "g", "task": members, "aggregate_metric_list": [average]}
    (tmp_path / "g.yaml").write_text(json.dumps(group))
    samples = {members[0]: list(IDS), members[1]: [1, 2, 3]}
    expected = lm_eval.simple_evaluate(
        model=HFLM(pretrained=llama, tokenizer=tokenizer, batch_size=1),
        tasks=["g"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        samples=samples | {f"g::{task}": ids for task, ids in samples.items()},  # since 0.5
        bootstrap_iters=0,
        log_samples=False,
    )["results"]["g"]
    harness = Harness(["g"], [tmp_path])
    evaluator = Evaluator(harness)
    evaluator.prepare(llama, tokenizer, {"search": samples})
    scores = evaluator.score(llama)
    ours = {key.removeprefix("g/"): v for key, v in scores.aggregates.items() if key[:2] == "g/"}
    theirs = {
        key: value
        for key, value in expected.items()
        if key.startswith("acc,") and not isinstance(value, str)
    }
    if len(theirs) == 1:
        theirs = {"acc": theirs["acc,plain"]}
    assert ours == pytest.approx(theirs)
    assert set(harness.info.groups["g"].metrics) == {*theirs, "nll"}


@pytest.mark.parametrize("stop", ["<|user|>", "</s>", "e", " the"])
def test_stop_sequences_end_texts_as_in_lm_eval_row_by_row(
    make_model: Any, tokenizer: Any, tasks: Path, tmp_path: Path, stop: str
) -> None:
    body = json.loads((tasks / "t_generate.yaml").read_text())
    body["generation_kwargs"] = {"until": [stop], "max_gen_toks": 20}
    (tmp_path / "t_generate.yaml").write_text(json.dumps(body))
    talkative = make_model("llama", seed=5)
    with torch.no_grad():  # special tokens come up often
        talkative.lm_head.weight[2:5] *= 2.0
    expected = reference(talkative, tokenizer, tmp_path, ["t_generate"])
    evaluator, scores = ours(talkative, tokenizer, tmp_path, ["t_generate"])
    assert evaluator.forward.own_loop
    assert_equal(evaluator, scores, expected)


@pytest.mark.parametrize("end", [" ", "e", 3, 4])
def test_only_the_text_behind_the_reasoning_is_the_answer(
    make_model: Any, tokenizer: Any, tasks: Path, tmp_path: Path, end: str | int
) -> None:
    """In the model's output, blanks, letters and special tokens stand in for `</think>`."""
    body = json.loads((tasks / "t_generate.yaml").read_text())
    body["generation_kwargs"] = {"until": ["</s>"], "max_gen_toks": 20}
    (tmp_path / "t_generate.yaml").write_text(json.dumps(body))
    talkative = make_model("llama", seed=5)
    with torch.no_grad():  # special tokens come up often
        talkative.lm_head.weight[2:5] *= 2.0
    lm = HFLM(pretrained=talkative, tokenizer=tokenizer, batch_size=1, think_end_token=end)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    expected = lm_eval.simple_evaluate(
        model=lm,
        tasks=["t_generate"],
        task_manager=manager,
        samples={"t_generate": list(IDS)},
        bootstrap_iters=0,
        log_samples=True,
    )
    harness = Harness(["t_generate"], [tmp_path])
    evaluator = Evaluator(harness, reasoning=Reasoning(end=end), counted={"t_generate"})
    evaluator.prepare(talkative, tokenizer, {"search": {"t_generate": IDS}})
    scores = evaluator.score(talkative)
    assert evaluator.forward.own_loop
    answers = [item["resps"][0][0] for item in expected["samples"]["t_generate"]]
    assert [item.answer for item in evaluator.examples(scores, "search", len(IDS))] == answers
    counts = scores.values["t_generate/tokens"]
    assert all(1 <= count <= 20 for count in counts) and len(set(counts)) > 1
    whole = Evaluator(harness, counted={"t_generate"})
    whole.prepare(talkative, tokenizer, {"search": {"t_generate": IDS}})
    plain = whole.score(talkative)
    assert plain.values["t_generate/tokens"] == counts  # reasoning counts, too
    assert [item.answer for item in whole.examples(plain, "search", len(IDS))] != answers


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_prefix_that_documents_share_changes_no_score(
    make_model: Any, tokenizer: Any, tasks: Path, tmp_path: Path, kind_that_shares: str, dtype: str
) -> None:
    names = ["t_choice", "t_letter", "t_continue"]
    for name in names:
        body = json.loads((tasks / f"{name}.yaml").read_text())
        body["fewshot_config"] = {"sampler": "first_n"}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(body))
    model = make_model(kind_that_shares, getattr(torch, dtype))
    expected = reference(model, tokenizer, tmp_path, names, num_fewshot=3)
    evaluator, scores = ours(model, tokenizer, tmp_path, names, fewshot=3)
    shares = kind_that_shares not in ("mamba", "bloom")
    assert evaluator.forward.shared == shares
    prepared = evaluator.forward._prepared.values()
    assert any(batch.prefix for work in prepared for batch in work.batches) == shares
    if dtype == "float32":
        assert_equal(evaluator, scores, expected)
    assert evaluator.score(model).values == scores.values


@pytest.fixture(params=["llama", "mistral", "qwen3", "gemma2", "gpt_neox", "bloom", "mamba"])
def kind_that_shares(request: pytest.FixtureRequest) -> str:
    return str(request.param)
