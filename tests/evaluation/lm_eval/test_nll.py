"""The metric `nll` is that of plain transformers, whatever the batches."""

import math
import re

import pytest
import torch
from lm_tasks import asking, requests_of

from evomerge.evaluation.lm_eval.tasks import Harness

IDS = range(40)
NAMES = ("t_choice", "t_mutual", "t_inputs", "t_continue", "t_rolling", "t_generate", "t_sample")


def nll(model, before, after):
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([before + after])).logits[0, :-1].log_softmax(-1)
    return -float(scores[len(before) - 1 :].gather(-1, torch.tensor(after)[:, None]).sum())


def expected(model, tokenizer, task, instance):
    """Return the nats of a document's reference answer by plain transformers."""
    prompt, document = instance.args[0], instance.doc
    answer = document["answer"]
    if task in ("t_choice", "t_mutual"):
        answer = document["choices"][document["label"]]
    prompt = document["options"][document["level"]] if task == "t_inputs" else prompt
    before = tokenizer(prompt)["input_ids"]
    if task not in ("t_generate", "t_sample"):  # its tokens are what it adds to the prompt's
        return nll(model, before, tokenizer(f"{prompt} {answer}")["input_ids"][len(before) :])
    forms = [f"{blank}{answer}{end}" for blank in (" ", "") for end in ("", "\n")]
    tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in forms]
    tokens = [[*tokens[i], *[tokenizer.eos_token_id] * (1 - i % 2)] for i in range(4)]
    return min(nll(model, before, after) for after in tokens)


@pytest.fixture(scope="module")
def whole(llama, tokenizer, tasks):
    evaluator = asking(Harness(NAMES, [tasks]), referenced=NAMES)
    evaluator.prepare(llama, tokenizer, {"search": dict.fromkeys(NAMES, IDS)})
    return evaluator, evaluator.score(llama)


@pytest.mark.parametrize("task", [name for name in NAMES if name != "t_rolling"])
def test_it_is_that_of_plain_transformers(task, whole, llama, tokenizer):
    evaluator, scores = whole
    requests = requests_of(evaluator, task)
    values = scores.values[f"{task}/nll"]
    plain = [expected(llama, tokenizer, task, requests[i][0].instance) for i in IDS]
    assert values == pytest.approx(plain, abs=1e-4)
    assert scores.aggregates[f"{task}/nll"] == pytest.approx(sum(values) / len(values))


def test_of_running_text_it_is_that_of_its_perplexity(whole):
    evaluator, scores = whole
    requests = requests_of(evaluator, "t_rolling")
    for place, found in zip(IDS, scores.values["t_rolling/nll"], strict=True):
        words = len(re.split(r"\s+", requests[place][0].instance.doc["text"]))
        perplexity = scores.values["t_rolling/word_perplexity"][place]
        assert found == pytest.approx(words * math.log(perplexity), rel=1e-6)


def test_it_depends_neither_on_batches_nor_on_the_other_documents(whole, llama, tokenizer, tasks):
    evaluator, scores = whole
    few = evaluator.score(llama, "search", {"t_generate": [3, 17], "t_choice": [3]})
    both = [scores.values["t_generate/nll"][i] for i in (3, 17)]
    assert few.values["t_generate/nll"] == pytest.approx(both, abs=1e-4)
    plain = asking(Harness(NAMES, [tasks]))
    plain.prepare(llama, tokenizer, {"search": dict.fromkeys(NAMES, IDS)})
    others = plain.score(llama).values
    assert others.keys() == {key for key in scores.values if not key.endswith("/nll")}


def test_a_group_has_the_mean_of_its_tasks(llama, tokenizer, tasks):
    harness = Harness(["g_sizes"], [tasks])
    leaves = harness.info.leaves("g_sizes")
    evaluator = asking(harness, referenced=leaves)
    evaluator.prepare(llama, tokenizer, {"search": dict.fromkeys(leaves, range(8))})
    found = evaluator.score(llama).aggregates
    assert found["g_sizes/nll"] == pytest.approx(sum(found[f"{t}/nll"] for t in leaves) / 2)
    assert harness.info.metric("g_sizes", "nll")[1].higher_is_better is False
