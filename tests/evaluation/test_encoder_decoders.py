"""Encoder-decoders have the scores of lm-eval's own path for them, with every kind of request."""

import pytest
import torch
import two_stacks
from lm_eval.models.huggingface import HFLM
from lm_tasks import asking, requests_of

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluation.lm_eval.tasks import Harness

IDS = (0, 3, 11, 25)
TASKS = ("t_choice", "t_letter", "t_mutual", "t_continue", "t_rolling", "t_generate", "t_filters")


@pytest.fixture(scope="module", params=["t5", pytest.param("bart", marks=pytest.mark.thorough)])
def model(request, tmp_path_factory):
    # Some versions of transformers can generate only where both stacks are equally deep.
    depth, length = ("num_layers", "n_positions")
    if request.param == "bart":
        depth, length = ("encoder_layers", "max_position_embeddings")
    changes = {depth: two_stacks.DECODER, length: 160}
    folder = tmp_path_factory.mktemp("model") / "a"
    return two_stacks.load(two_stacks.make(folder, request.param, vocab_size=384, **changes))


def scored(model, tokenizer, tasks, names):
    evaluator = asking(Harness(names, [tasks]))
    evaluator.prepare(model, tokenizer, {"search": dict.fromkeys(names, IDS)})
    return evaluator


def test_every_request_type_gives_lm_evals_scores(model, tokenizer, tasks, by_lm_eval):
    lm = HFLM(pretrained=model, backend="seq2seq", tokenizer=tokenizer, batch_size=1)
    expected = by_lm_eval(lm, tasks, TASKS, IDS)
    evaluator = asking(Harness(TASKS, [tasks]), counted={"t_generate"})
    evaluator.prepare(model, tokenizer, {"search": dict.fromkeys(TASKS, IDS)})
    scores = evaluator.score(model)
    for task in TASKS:
        answers = {item["doc_id"]: item["resps"] for item in expected["samples"][task]}
        for document, requests in requests_of(evaluator, task).items():
            theirs = [item[0] for item in answers[document]]
            theirs = [tuple(item) if isinstance(item, list) else item for item in theirs]
            assert [request.instance.resps[0] for request in requests] == theirs
        for name, value in expected["results"][task].items():
            metric, _, label = name.partition(",")
            key = f"{task}/{metric}" + (f",{label}" if task == "t_filters" else "")
            if key in scores.aggregates:
                assert scores.aggregates[key] == pytest.approx(value, rel=1e-9)
    assert 0 < scores.aggregates["t_choice/acc"] < 1 < scores.aggregates["t_generate/tokens"]
    texts = evaluator.tasks_of("search").of("t_generate").texts("t_generate", IDS)
    assert len(set(texts.values())) > len(IDS) / 2, "what it writes depends on the question"


def test_some_documents_have_the_bits_of_all(model, tokenizer, tasks):
    names = ("t_choice", "t_generate", "t_sample")
    evaluator = scored(model, tokenizer, tasks, names)
    whole = evaluator.answer(model).rows
    some = evaluator.answer(model, documents=dict.fromkeys(names, IDS[2:4])).rows
    assert some == {name: {i: whole[name][i] for i in IDS[2:4]} for name in names}


def test_the_likelihood_of_an_answer_to_write_is_refused(model, tokenizer, tasks):
    """As where `evomerge evaluate` scores one with the search file of causal models."""
    evaluator = asking(Harness(["t_generate"], [tasks]), referenced={"t_generate"})
    with pytest.raises(ConfigError, match="this model is an encoder-decoder; take another"):
        evaluator.prepare(model, tokenizer, {"search": {"t_generate": IDS}})


def test_no_number_is_a_failed_candidate(tmp_path, tokenizer, tasks):
    model = two_stacks.load(two_stacks.make(tmp_path / "a", vocab_size=384))
    evaluator = scored(model, tokenizer, tasks, ("t_choice",))
    with torch.no_grad():
        model.encoder.block[0].layer[0].SelfAttention.q.weight.fill_(torch.nan)
    with pytest.raises(CandidateError, match="not numbers"):
        evaluator.score(model)
