"""Scores equal lm-eval's, for every request type and several architectures."""

import json

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_tasks import asking, requests_of, runner_of
from stock_scores import NATS, PERPLEXITY

from evomerge.evaluation.inference.reference import Reasoning
from evomerge.evaluation.lm_eval.tasks import Harness

IDS = (0, 3, 4, 7, 11, 12, 20, 25, 26, 31, 38, 39)


@pytest.fixture
def reference(tokenizer, by_lm_eval):
    """Return what scores a model by stock lm-eval."""

    def scored(model, folder, names, **options):
        end = {"think_end_token": options.pop("end")} if "end" in options else {}
        lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1, **end)
        return by_lm_eval(lm, folder, names, options.pop("ids", IDS), **options)

    return scored


def ours(model, tokenizer, tasks, names, batch_size="auto", **options):
    harness = Harness(names, [tasks], **options)
    evaluator = asking(harness, batch_size=batch_size)
    leaves = [leaf for name in names for leaf in harness.info.leaves(name)]
    evaluator.prepare(model, tokenizer, {"search": dict.fromkeys(leaves, IDS)})
    return evaluator, evaluator.score(model)


def assert_equal(evaluator, scores, expected):
    for task, ids in scores.documents.items():
        samples = expected["samples"][task]
        filters = list(dict.fromkeys(sample["filter"] for sample in samples))
        for label in filters:
            rows = {s["doc_id"]: s for s in samples if s["filter"] == label}
            assert sorted(rows) == sorted(ids)
            for metric in rows[ids[0]]["metrics"]:
                suffix = f",{label}" if len(filters) > 1 else ""
                key, aggregate = f"{task}/{metric}{suffix}", f"{metric},{label}"
                theirs = pytest.approx(expected["results"][task][aggregate], rel=PERPLEXITY)
                assert scores.aggregates[key] == theirs
                if isinstance(rows[ids[0]][metric], (int, float)):
                    column = [rows[i][metric] for i in ids]
                    np.testing.assert_allclose(scores.values[key], column, rtol=PERPLEXITY)
        answers = {s["doc_id"]: s["resps"] for s in samples}
        requests = requests_of(evaluator, task)
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
@pytest.mark.parametrize("shots", [None, 2], ids=["zero-shot", "two-shot"])
def test_every_request_type_gives_lm_evals_scores(llama, tokenizer, tasks, reference, shots, chat):
    names = (*SCORED, *GENERATED)
    expected = reference(llama, tasks, names, num_fewshot=shots, apply_chat_template=chat)
    evaluator, scores = ours(
        llama, tokenizer, tasks, names, fewshot=shots, apply_chat_template=chat
    )
    assert (
        runner_of(evaluator).forward.packed
        and runner_of(evaluator).forward.gather
        and runner_of(evaluator).forward.own_loop
    )
    assert_equal(evaluator, scores, expected)


def usual(kind, kinds):
    """Return an architecture as a parameter that `make test` leaves out unless it is in kinds."""
    return kind if kind in kinds else pytest.param(kind, marks=pytest.mark.thorough)


KINDS = ["qwen3", "gemma2", "gpt_neox", "bloom", "mamba", "phi3", "llama4_text"]


@pytest.mark.parametrize(
    "kind", [usual(kind, ("gemma2", "bloom", "mamba", "phi3")) for kind in KINDS]
)
def test_every_architecture_gives_lm_evals_scores(make_model, tokenizer, tasks, reference, kind):
    model, names = make_model(kind), ("t_choice", "t_letter", "t_rolling", "t_generate")
    evaluator, scores = ours(model, tokenizer, tasks, names)
    assert_equal(evaluator, scores, reference(model, tasks, names))


@pytest.mark.parametrize("kind", ["phi3", "llama4_text"])
def test_texts_up_to_a_change_are_run_in_all_fast_ways(make_model, tokenizer, tasks, kind):
    """Longer ones, whose positions or attention are others, are left to plain passes."""
    model, names = make_model(kind), ("t_choice", "t_rolling", "t_generate")
    evaluator, _ = ours(model, tokenizer, tasks, names)
    forward, change = runner_of(evaluator).forward, 36
    assert forward.packed and forward.gather and forward.own_loop
    for plan in forward._plans.values():
        assert plan.left and plan.prompted
        lengths = [(batch.tokens.shape, int(batch.positions is not None)) for batch in plan.batches]
        assert any(packed for _, packed in lengths)
        long = [rows for (rows, width), packed in lengths if width > change and not packed]
        assert long == [1] * len(long) != []


@pytest.mark.parametrize("kind", ["llama", "gemma2", "phi3"])
def test_at_batch_size_1_every_bit_is_lm_evals_in_bfloat16(
    make_model, tokenizer, tasks, reference, kind
):
    model = make_model(kind, torch.bfloat16)
    names = (*SCORED, *GENERATED) if kind == "llama" else ("t_choice", "t_rolling", "t_generate")
    expected = reference(model, tasks, names)
    evaluator, scores = ours(model, tokenizer, tasks, names, batch_size=1)
    assert runner_of(evaluator).forward.own_loop
    for task, ids in scores.documents.items():
        theirs = {sample["doc_id"]: sample["resps"] for sample in expected["samples"][task]}
        for document in ids:
            requests = requests_of(evaluator, task)[document]
            assert [[request.instance.resps[0]] for request in requests] == theirs[document]


def averages(model, tokenizer, folder, name, samples):
    """Return the scores of a group."""
    evaluator = asking(Harness([name], [folder]))
    evaluator.prepare(model, tokenizer, {"search": samples})
    found = evaluator.score(model).aggregates
    return {key.partition("/")[2]: v for key, v in found.items() if key.startswith(f"{name}/")}


@pytest.mark.parametrize("name", ["g_sizes", "g_plain", "g_nested_sizes", "g_nested"])
def test_groups_average_as_lm_evals_groups(llama, tokenizer, tasks, reference, name):
    """A task that is in two nested groups counts twice."""
    samples = {"t_choice": list(IDS), "t_letter": [1, 2, 3]}
    samples |= {"t_inputs": [5, 6]} if "nested" in name else {}
    expected = reference(llama, tasks, [name], ids=dict(samples))["results"][name]
    found = averages(llama, tokenizer, tasks, name, samples)
    assert found["acc"] == pytest.approx(expected["acc,none"])


MEMBERS = [
    (["t_one", "t_two"], "plain"),
    (["t_one", "t_two"], None),
    (["t_one", "t_both"], ["plain"]),
    (["t_one", "t_both"], ["strict", "plain"]),
    (["t_both", "t_one"], None),
]


@pytest.mark.parametrize(("members", "filters"), MEMBERS)
def test_groups_average_the_filters_that_they_name(
    llama, tokenizer, tasks, reference, tmp_path, members, filters
):
    """As in bbh, mmlu_pro and kormedmcqa: a task has one filter, and its group names it."""
    body = json.loads((tasks / "t_choice.yaml").read_text())
    first = [{"function": "take_first"}]
    several = [{"name": name, "filter": first} for name in ("strict", "plain")]
    for name, own in (("t_one", several[1:]), ("t_two", several[1:]), ("t_both", several)):
        made = body | {"task": name, "filter_list": own, "doc_to_text": f"{name} {{{{question}}}}"}
        (tmp_path / f"{name}.yaml").write_text(json.dumps(made))
    average = {"metric": "acc", "aggregation": "mean", "weight_by_size": True}
    average |= {"filter_list": filters} if filters else {}
    group = {"group": "g", "task": members, "aggregate_metric_list": [average]}
    (tmp_path / "g.yaml").write_text(json.dumps(group))
    samples = {members[0]: list(IDS), members[1]: [1, 2, 3]}
    expected = reference(llama, tmp_path, ["g"], ids=dict(samples))["results"]["g"]
    named = ((key, value) for key, value in expected.items() if key.startswith("acc,"))
    theirs = {key: value for key, value in named if not isinstance(value, str)}
    theirs = {"acc": theirs["acc,plain"]} if len(theirs) == 1 else theirs
    assert averages(llama, tokenizer, tmp_path, "g", samples) == pytest.approx(theirs)


def rewrite(tasks, folder, name, **changes):
    body = json.loads((tasks / f"{name}.yaml").read_text())
    (folder / f"{name}.yaml").write_text(json.dumps(body | changes))


def talkative(make_model, tasks, folder, stop):
    """Return a model that often writes special tokens; and write a task with long texts."""
    kwargs = {"until": [stop], "max_gen_toks": 20}
    rewrite(tasks, folder, "t_generate", generation_kwargs=kwargs)
    model = make_model("llama", seed=5)
    with torch.no_grad():
        model.lm_head.weight[2:5] *= 2.0
    return model


@pytest.mark.parametrize("stop", ["<|user|>", " the"])
def test_stop_sequences_end_texts_as_in_lm_eval_row_by_row(
    make_model, tokenizer, tasks, tmp_path, reference, stop
):
    model = talkative(make_model, tasks, tmp_path, stop)
    evaluator, scores = ours(model, tokenizer, tmp_path, ["t_generate"])
    assert runner_of(evaluator).forward.own_loop
    assert_equal(evaluator, scores, reference(model, tmp_path, ["t_generate"]))


@pytest.mark.parametrize("end", [" ", 3])
def test_only_the_text_behind_the_reasoning_is_the_answer(
    make_model, tokenizer, tasks, tmp_path, reference, end
):
    """In the model's output, blanks, letters and special tokens stand in for `</think>`."""
    model = talkative(make_model, tasks, tmp_path, "</s>")
    expected = reference(model, tmp_path, ["t_generate"], end=end)["samples"]["t_generate"]
    found = []
    for reasoning in (Reasoning(end=end), Reasoning()):
        harness = Harness(["t_generate"], [tmp_path])
        evaluator = asking(harness, reasoning=reasoning, counted={"t_generate"})
        evaluator.prepare(model, tokenizer, {"search": {"t_generate": IDS}})
        scores = evaluator.score(model)
        answers = [item.answer for item in evaluator.examples(scores, "search", len(IDS))]
        found.append((answers, scores.values["t_generate/tokens"]))
    (answers, counts), (plain, of_plain) = found
    assert answers == [item["resps"][0][0] for item in expected] != plain
    assert all(1 <= count <= 20 for count in counts) and len(set(counts)) > 1
    assert counts == of_plain, "reasoning counts, too"


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("llama", "float32"),
        ("llama", "bfloat16"),
        ("mamba", "float32"),
        *(
            pytest.param(kind, "float32", marks=pytest.mark.thorough)
            for kind in ("gemma2", "bloom")
        ),
    ],
)
def test_a_prefix_that_documents_share_changes_no_score(
    make_model, tokenizer, tasks, tmp_path, reference, kind, dtype
):
    names = ["t_choice", "t_letter", "t_continue"]
    for name in names:
        rewrite(tasks, tmp_path, name, fewshot_config={"sampler": "first_n"})
    model = make_model(kind, getattr(torch, dtype))
    evaluator, scores = ours(model, tokenizer, tmp_path, names, fewshot=3)
    shares = kind not in ("mamba", "bloom")
    assert runner_of(evaluator).forward.shared == shares
    plans = runner_of(evaluator).forward._plans.values()
    assert any(batch.prefix for plan in plans for batch in plan.batches) == shares
    if dtype == "float32":
        assert_equal(evaluator, scores, reference(model, tmp_path, names, num_fewshot=3))
    assert evaluator.score(model).values == scores.values
