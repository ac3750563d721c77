"""The evaluator: reproducible bits, failed candidates, the choice of fast ways, lack of memory."""

import pytest
import torch
from lm_tasks import asking, runner_of

from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Evaluator, score_single
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.evaluation.tasks.functions import ObjectiveFunction
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo

ALL = dict.fromkeys(("t_choice", "t_rolling", "t_generate"), range(40))


@pytest.fixture
def evaluator(llama, tokenizer, tasks):
    made = asking(Harness(list(ALL), [tasks]))
    made.prepare(llama, tokenizer, {"search": ALL})
    return made


def test_values_depend_on_the_model_and_the_document_alone(
    make_model, evaluator, llama, tokenizer, tasks
):
    first = evaluator.score(llama)
    evaluator.score(make_model("llama", seed=1))
    part = evaluator.score(llama, documents={"t_choice": [30, 2, 11], "t_generate": [4]})
    assert part.documents == {"t_choice": (2, 11, 30), "t_generate": (4,)}
    column = first.values["t_choice/acc"]
    assert part.values["t_choice/acc"] == (column[2], column[11], column[30])
    assert part.aggregates["t_choice/acc"] == sum(part.values["t_choice/acc"]) / 3
    again = evaluator.score(llama)
    fresh = asking(Harness(list(ALL), [tasks]))
    fresh.prepare(llama, tokenizer, {"search": ALL})
    for other in (again, fresh.score(llama)):
        assert other.values == first.values and other.aggregates == first.aggregates


def test_a_model_of_nans_is_a_failed_candidate(make_model, evaluator):
    broken = make_model("llama", seed=3)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    for documents in ({"t_choice": range(4)}, {"t_generate": range(4)}):
        with pytest.raises(CandidateError, match="not numbers"):
            evaluator.score(broken, documents=documents)


def test_a_model_that_ignores_masks_is_scored_row_by_row(make_model, llama, tokenizer, tasks):
    deaf = make_model("llama")
    hear = deaf.forward
    deaf.forward = lambda *args, attention_mask=None, **kwargs: hear(*args, **kwargs)
    evaluator = asking(Harness(["t_choice"], [tasks]))
    evaluator.prepare(deaf, tokenizer, {"search": {"t_choice": range(40)}})
    assert not runner_of(evaluator).forward.packed
    right = asking(Harness(["t_choice"], [tasks]))
    right.prepare(llama, tokenizer, {"search": {"t_choice": range(40)}})
    assert evaluator.score(deaf).values == right.score(llama).values


def test_when_memory_runs_out_batches_are_halved_for_good(make_model, evaluator, llama):
    """One row that does not fit is a failed candidate."""
    expected = evaluator.score(llama)
    narrow, room, sizes = make_model("llama"), [300], []
    wide = narrow.forward

    def forward(*args, input_ids, **kwargs):
        sizes.append(input_ids.numel())
        if input_ids.numel() > room[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return wide(*args, input_ids=input_ids, **kwargs)

    narrow.forward = forward
    assert evaluator.score(narrow).values["t_choice/acc"] == expected.values["t_choice/acc"]
    sizes.clear()
    evaluator.score(narrow)
    assert max(sizes) <= 300
    room[0] = 0
    with pytest.raises(CandidateError, match="memory"):
        evaluator.score(narrow)


def test_answers_are_there_after_functions_between_which_the_model_is_loaded_again(
    evaluator, llama, tokenizer
):
    def zeros(model, tokenizer, documents):
        return [0.0] * len(documents)

    score = {"score": MetricInfo(higher_is_better=True, is_mean=True)}
    tasks = [TaskInfo(name, "function", 2, score) for name in ("one", "two")]
    functions = [ObjectiveFunction(zeros, task) for task in tasks]
    both = Evaluator([*evaluator.default.objectives, *functions])
    documents = {"t_generate": range(2), "one": range(2), "two": range(2)}
    scores = score_single(both, lambda: (llama, tokenizer), "test", documents, examples=2)
    assert [item.answer for item in scores.examples] and len(scores.examples) == 2
