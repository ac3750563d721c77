"""What `evomerge validate` says of the backend."""

import pytest
from search_run import SMALL, write_search

from evomerge.config.schema import load
from evomerge.setup.preflight import summary, warnings
from evomerge.setup.runs import prepare

TEXTS = {"task": "zoo_maths", "metric": "exact_match"}
CHOICES = {"task": "zoo_facts", "metric": "acc"}


@pytest.mark.parametrize(
    ("backend", "objectives", "said", "warned"),
    [
        ("hf", [CHOICES], "hf", False),
        ("hf", [TEXTS], "hf; vllm may take less time", False),
        ("vllm", [TEXTS], "vllm for texts (zoo_maths)", False),
        (
            "vllm",
            [TEXTS, CHOICES],
            "vllm for texts (zoo_maths), hf for log-likelihoods (zoo_facts)",
            False,
        ),
        ("vllm", [CHOICES], "hf for log-likelihoods (zoo_facts)", True),
    ],
)
def test_validate_says_which_backend_answers_which_tasks(
    tmp_path, monkeypatch, backend, objectives, said, warned
):
    monkeypatch.setattr("evomerge.evaluate.inference.vllm_start.version", lambda name: "0.33.0")
    evaluation = {**SMALL["evaluation"], "backend": backend}
    file = write_search(tmp_path, objectives=objectives, evaluation=evaluation)
    problem = prepare(load(file), file.parent)
    assert summary(problem)["backend"].startswith(said)
    assert any("use the backend 'hf'" in note for note in warnings(problem, True)) == warned
