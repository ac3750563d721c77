"""The loss equals that of plain transformers, and its form is found by what a model prefers."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.loss import Form, Loss
from evomerge.evaluation.tasks.harness import Harness

METRICS = {"zoo_maths": "exact_match", "zoo_l2_maths_mc": "acc"}
IDS = {"zoo_maths": list(range(12)), "zoo_l2_maths_mc": list(range(5))}


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(zoo.path("maths"), dtype=torch.float32)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(zoo.path("maths"))


@pytest.fixture(scope="module")
def evaluator(model, tokenizer):
    made = Evaluator(Harness(list(METRICS), [zoo.tasks_path()]))
    made.prepare(model, tokenizer, {"search": IDS})
    return made


def documents_of(evaluator, task):
    """Return (prompt, document) of each of a task's documents."""
    requests = evaluator.requests("search", task)
    return [(requests[i][0].instance.args[0], requests[i][0].instance.doc) for i in IDS[task]]


def nll(model, tokenizer, prompt: str, answer: str) -> torch.Tensor:
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"]
    scores = model(input_ids=torch.tensor([before + after])).logits[0, :-1].log_softmax(-1)
    return -scores[len(before) - 1 :].gather(-1, torch.tensor(after)[:, None]).sum()


@pytest.mark.parametrize(
    ("form", "before", "behind"),
    [
        (Form(True, "token"), " ", "<eos>"),
        (Form(False, "none"), "", ""),
        (Form(True, "stop"), " ", "<eos>"),
    ],
)
def test_an_answer_has_the_loss_of_plain_transformers(
    form, before, behind, model, tokenizer, evaluator
):
    loss = Loss(evaluator, METRICS, form=form)(model, {"zoo_maths": IDS["zoo_maths"]})
    with torch.no_grad():
        each = [
            float(nll(model, tokenizer, prompt, f"{before}{document['answer']}{behind}"))
            for prompt, document in documents_of(evaluator, "zoo_maths")
        ]
    assert loss == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_choices_have_the_cross_entropy_of_the_right_one(model, tokenizer, evaluator):
    task = "zoo_l2_maths_mc"
    loss = Loss(evaluator, METRICS)(model, {task: IDS[task]})
    each = []
    with torch.no_grad():
        for prompt, document in documents_of(evaluator, task):
            choices = [-nll(model, tokenizer, prompt, f" {text}") for text in document["choices"]]
            each.append(-float(torch.stack(choices).log_softmax(0)[document["gold"]]))
    assert loss == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_the_gradient_is_that_of_the_loss_whatever_the_batches(model, evaluator):
    loss = Loss(evaluator, METRICS)
    weight = model.model.layers[2].mlp.up_proj.weight
    weight.requires_grad_(True)
    value = loss.backward(model, IDS)
    found, weight.grad = weight.grad.clone(), None
    parts = [loss.backward(model, {task: IDS[task]}) for task in IDS]
    assert value == pytest.approx(sum(parts) / 2, rel=1e-5)
    torch.testing.assert_close(weight.grad / 2, found, rtol=1e-3, atol=1e-6)
    assert value == pytest.approx(loss(model, IDS), rel=1e-5)
    weight.requires_grad_(False)
    weight.grad = None


def test_the_form_is_the_one_that_a_model_finds_likely(model, evaluator):
    """The model was trained on answers after a blank that end with the end token."""
    other = AutoModelForCausalLM.from_pretrained(zoo.path("base"), dtype=torch.float32)
    loss = Loss(evaluator, METRICS)
    assert loss.choose_form([other, model], {"zoo_maths": IDS["zoo_maths"]}).delimiter


def test_a_document_without_an_answer_has_no_loss(evaluator):
    harness = evaluator.tasks_of("search").harness
    with pytest.raises(ConfigError, match="has no reference answer"):
        harness.reference_answer("zoo_maths", {"prompt": "", "answer": " "})
    with pytest.raises(ConfigError, match="which choice is right"):
        harness.right_choice("zoo_l2_maths_mc", {"choices": ["a"], "gold": "b"})
