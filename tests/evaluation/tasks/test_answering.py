"""Objective functions that let the model answer texts: what transformers and lm-eval answer."""

import copy

import pytest
import tiny
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

from evomerge import zoo
from evomerge.errors import CandidateError
from evomerge.evaluation.tasks.functions import ObjectiveFunction
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo

PROMPTS = ["tom has 7 apples . buys 5 . howmany now ? :", "max has 9 stones .", "anna"] * 3
ANSWERS = ["12 items", "loses 2 .", "has 9 items . howmany now ? :"] * 3


@pytest.fixture(scope="module")
def model():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(zoo.path("maths")).requires_grad_(False).eval()


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(zoo.path("maths"))


def called(body, model, tokenizer):
    info = TaskInfo("mine:f", "function", 9, {"score": MetricInfo(True, is_mean=True)})
    seen = []

    def keeping(*arguments):
        seen.append(body(*arguments))
        return [0.0]

    ObjectiveFunction(keeping, info).score(model, tokenizer, {"mine:f": [0]})
    return seen[0]


def test_texts_are_those_of_transformers(model, tokenizer):
    texts = called(lambda m, *_: m.generate(PROMPTS, max_new_tokens=8), model, tokenizer)
    ends = {tokenizer.eos_token_id}
    for prompt, text in zip(PROMPTS, texts, strict=True):
        rows = tokenizer(prompt, return_tensors="pt")
        stock = model.generate(**rows, max_new_tokens=8, do_sample=False)
        answer = [int(t) for t in stock[0, rows["input_ids"].shape[1] :] if int(t) not in ends]
        assert text.strip() == tokenizer.decode(answer).strip()


def test_stop_texts_end_an_answer(model, tokenizer):
    def body(one, *_):
        return one.generate(PROMPTS, 8), one.generate(PROMPTS, 8, stop=["items"])

    whole, cut = called(body, model, tokenizer)
    assert [text.split("items")[0] for text in whole] == cut and "items" in whole[0]


def test_log_likelihoods_are_those_of_lm_eval(model, tokenizer):
    found = called(
        lambda m, *_: m.loglikelihood(prompts=PROMPTS, answers=ANSWERS), model, tokenizer
    )
    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1)
    pairs = zip(PROMPTS, ANSWERS, strict=True)
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    expected = [total for total, _ in stock.loglikelihood(asked, disable_tqdm=True)]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_model_is_as_it_was_and_a_copy_answers_as_itself(model, tokenizer):
    def body(one, *_):
        other = copy.deepcopy(one)
        for weight in other.parameters():
            weight.zero_()
        rows = tokenizer(PROMPTS[0], return_tensors="pt")
        as_usual = one.generate(**rows, max_new_tokens=3, do_sample=False)
        return one.generate(PROMPTS, 4), other.generate(PROMPTS, 4), as_usual

    kind = type(model)
    ours, zeros, as_usual = called(body, model, tokenizer)
    assert ours != zeros and isinstance(as_usual, torch.Tensor)
    assert type(model) is kind and not hasattr(model, "loglikelihood")


def test_what_cannot_be_answered_fails_the_candidate(model, tokenizer):
    with pytest.raises(CandidateError, match=r"mine:f.* raised ValueError"):
        called(lambda m, *_: m.loglikelihood(PROMPTS, ANSWERS[:2]), model, tokenizer)


def test_a_model_that_writes_no_texts_is_left_alone(tmp_path):
    encoder = tiny.load(tiny.make(tmp_path / "bert", "bert"))
    assert called(lambda m, *_: hasattr(m, "loglikelihood"), encoder, None) is False
