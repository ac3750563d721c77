"""Texts that are drawn at random: the same in every batch, and lm-eval's for the same seeds."""

from collections import Counter

import numpy as np
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_tasks import asking, lm_eval_of, requests_of, runner_of

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.generation import seed_of
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.trust.calls import seeded
from evomerge.trust.code import Permissions

pytestmark = pytest.mark.thorough

IDS = (0, 3, 4, 7, 11, 12, 20, 25, 26, 31)
PLAIN = """
task: {name}
include: {zoo}
generation_kwargs: {{until: ["<eos>"], do_sample: true, temperature: 2.0, max_gen_toks: 5}}
repeats: 5
"""
VOTE = """
filter_list:
  - {name: first, filter: [{function: take_first}]}
  - {name: vote, filter: [&vote {function: majority_vote}, &first {function: take_first}]}
  - {name: vote-of-3, filter: [{function: take_first_k, k: 3}, *vote, *first]}
"""
MEAN = """
filter_list:
  - name: all
    filter: [{function: take_first_k, k: 3}]
process_results: !function mean.process_results
"""
PYTHON = """
def process_results(document, results):
    texts = results[0]
    return {"exact_match": sum(text == document["answer"] for text in texts) / len(texts)}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with tasks that sample answers to the documents of an embedded task."""
    made = tmp_path_factory.mktemp("sampled")
    task = zoo.tasks_path() / "zoo_maths.yaml"
    for name, text in (("s_vote", VOTE), ("s_mean", MEAN), ("s_plain", "")):
        (made / f"{name}.yaml").write_text(PLAIN.format(name=name, zoo=task) + text)
    (made / "mean.py").write_text(PYTHON)
    return made


class SeededLM(HFLM):
    """lm-eval's own model class; torch gets the seed of each text before it is generated."""

    def __init__(self, task, ids, **options):
        super().__init__(**options)
        self.task, self.ids = task, ids

    def generate_until(self, requests, disable_tqdm=False):
        repeats = Counter()
        texts = []
        for request in requests:
            document = self.ids[request.doc_id]
            name = f"7/{self.task}/{document}/{request.idx}/{repeats[request.doc_id]}"
            repeats[request.doc_id] += 1
            with seeded(seed_of(name)):
                texts += super().generate_until([request], disable_tqdm=True)
        return texts


@pytest.fixture
def stock(by_lm_eval):
    """Return what gives scores and texts of lm-eval itself, if it generates with our seeds."""

    def scored(model, tokenizer, tasks, name, **options):
        lm = SeededLM(f"{name}:test", IDS, pretrained=model, tokenizer=tokenizer, batch_size=1)
        found = by_lm_eval(lm, tasks, [name], IDS, **options)
        results = found["results"][name].items()
        scores = {k: v for k, v in results if isinstance(v, float) and "stderr" not in k}
        texts = {sample["doc_id"]: sample["resps"][0] for sample in found["samples"][name]}
        return scores, [texts[document] for document in sorted(texts)]

    return scored


def ours(model, tokenizer, tasks, name, batch_size="auto", **options):
    harness = Harness([name], [tasks], allowed=Permissions(trust_code=True), **options)
    evaluator = asking(harness, batch_size=batch_size, counted={name}, seed=7)
    evaluator.prepare(model, tokenizer, {"search": {name: IDS}})
    return evaluator, evaluator.score(model)


def texts_of(evaluator, name):
    """Return the texts that were generated for each document."""
    documents = requests_of(evaluator, name).values()
    return [request.instance.resps for (request,) in documents]


@pytest.mark.parametrize("name", ["s_vote", "s_mean"])
def test_repeats_filters_and_aggregation_are_lm_evals(zoo_maths, folder, stock, name):
    expected, texts = stock(*zoo_maths, folder, name)
    evaluator, scores = ours(*zoo_maths, folder, name)
    assert runner_of(evaluator).forward.own_loop
    assert len(expected) == (3 if name == "s_vote" else 1)
    for key, value in expected.items():
        key = key if len(expected) > 1 else key.split(",")[0]
        assert scores.aggregates[f"{name}/{key}"] == pytest.approx(value)
    assert texts_of(evaluator, name) == texts
    assert name == "s_mean" or len(set(expected.values())) > 1  # the filters read different texts


SETTINGS = {
    "of the model": {"temperature": 0.9},
    "of the task": {"temperature": 1.3, "top_k": 40, "top_p": 0.9},
    "no limits": {"temperature": 1.0, "top_k": 0, "top_p": 1.0},
}


CASES = [("llama", chosen) for chosen in SETTINGS]
CASES += [(kind, "of the task") for kind in ("bfloat16", "mamba", "penalty")]


@pytest.mark.parametrize(("kind", "chosen"), CASES)
def test_texts_are_those_of_lm_eval_with_the_same_seeds(
    make_model, tokenizer, tasks, stock, kind, chosen
):
    """Also where lm-eval generates: for models without position ids, and with penalties."""
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    model = make_model("mamba" if kind == "mamba" else "llama", dtype)
    size, settings = 1 if kind == "bfloat16" else "auto", SETTINGS[chosen]
    model.generation_config.top_p, model.generation_config.top_k = 0.8, 30
    if kind == "penalty":
        model.generation_config.repetition_penalty = 1.2
    expected, theirs = stock(model, tokenizer, tasks, "t_sample", gen_kwargs=settings)
    evaluator, scores = ours(model, tokenizer, tasks, "t_sample", size, generation=settings)
    assert runner_of(evaluator).forward.own_loop == (kind in ("llama", "bfloat16"))
    for key, value in expected.items():
        assert scores.aggregates[f"t_sample/{key.split(',')[0]}"] == pytest.approx(value)
    texts = texts_of(evaluator, "t_sample")
    assert texts == theirs
    assert len({text for (text,) in texts}) > 5


def test_a_score_depends_on_neither_batches_nor_neighbours(zoo_maths, folder):
    evaluator, scores = ours(*zoo_maths, folder, "s_vote")
    values = scores.of_task("s_vote")
    assert 1 < np.mean(values["tokens"]) < 5
    for size in (1, 7, 64):
        assert ours(*zoo_maths, folder, "s_vote", size)[1].of_task("s_vote") == values
    half = evaluator.score(zoo_maths[0], "search", {"s_vote": IDS[1::2]}).of_task("s_vote")
    assert half == {key: column[1::2] for key, column in values.items()}
    for place, (request,) in enumerate(requests_of(evaluator, "s_vote").values()):
        if place % 2:  # the mean is over all repeats
            assert len(request.generated) == len(request.instance.resps) == 5
            assert values["tokens"][place] == sum(request.generated) / 5
    lm_eval_of(evaluator).seed = 8
    evaluator.prepare(*zoo_maths, {"search": {"s_vote": IDS}})
    assert evaluator.score(zoo_maths[0]).of_task("s_vote") != values


def test_a_temperature_that_cannot_be_used_is_one_sentence(llama, tokenizer, tasks):
    for settings, words in (({"temperature": 0.0}, "temperature"), ({"top_p": -1.0}, "top_p")):
        evaluator = asking(Harness(["t_sample"], [tasks], generation=settings))
        with pytest.raises(ConfigError, match=rf"'t_sample' samples texts.*{words}"):
            evaluator.prepare(llama, tokenizer, {"search": {"t_sample": IDS}})
