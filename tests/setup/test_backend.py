"""What `evomerge validate` says of the backend."""

import re

import pytest
from search_run import SMALL, write_search
from tiny import make

from evomerge.config.schema import load
from evomerge.errors import CheckpointError
from evomerge.setup.preflight import summary, warnings
from evomerge.setup.runs import prepare

TEXTS = {"task": "zoo_maths", "metric": "exact_match"}
CHOICES = {"task": "zoo_facts", "metric": "acc"}


VLLM = {**SMALL["evaluation"], "backend": "vllm"}
STACKED = {"kind": "dataflow", "scales": 1.0}


@pytest.fixture
def installed(monkeypatch):
    """A vLLM that is installed, as far as `validate` looks."""
    monkeypatch.setattr("evomerge.evaluation.inference.vllm_start.version", lambda name: "0.33.0")


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
        (
            "vllm",
            [{**TEXTS, "tie_breaker": "nll"}],
            "vllm for texts (zoo_maths), hf for log-likelihoods (nll of zoo_maths)",
            False,
        ),
        ("vllm", [CHOICES], "hf for log-likelihoods (zoo_facts)", True),
    ],
)
def test_validate_says_which_backend_answers_which_tasks(
    tmp_path, installed, backend, objectives, said, warned
):
    evaluation = {**SMALL["evaluation"], "backend": backend}
    file = write_search(tmp_path, objectives=objectives, evaluation=evaluation)
    problem = prepare(load(file), file.parent)
    assert summary(problem)["backend"].startswith(said)
    assert any("use the backend 'hf'" in note for note in warnings(problem, True)) == warned


def test_validate_says_that_descents_do_not_use_vllm(tmp_path, installed):
    file = write_search(
        tmp_path, objectives=[TEXTS], evaluation=VLLM, optimizer={"name": "gradient"}
    )
    said = summary(prepare(load(file), file.parent))["backend"]
    assert said == "vllm for texts (zoo_maths), hf for the steps of descents"


@pytest.mark.parametrize(
    ("space", "engine"),
    [
        ({**STACKED, "layers": [4, 8]}, "8 layers; .*host has 6, so 1.3 times"),
        ({**STACKED, "variant": "dropping"}, "6 layers; .*1 times"),
        ({**STACKED, "repeats": 1}, "13 layers; .*2.2 times"),
    ],
)
def test_validate_says_how_deep_the_engine_is_and_what_it_costs(tmp_path, installed, space, engine):
    changes = {"base": None, "objectives": [TEXTS], "evaluation": VLLM}
    file = write_search(tmp_path, space=space, **changes)
    problem = prepare(load(file), file.parent)
    assert re.match(engine, summary(problem)["engine"])


def test_layers_that_an_engine_fixes_by_position_must_stay_where_they_are(tmp_path, installed):
    """Gemma 2 alternates two kinds of attention."""
    parents = [str(make(tmp_path / name, "gemma2", seed=seed)) for seed, name in enumerate("ab")]
    changes = {"base": None, "parents": parents, "objectives": [TEXTS], "evaluation": VLLM}
    file = write_search(tmp_path, space={**STACKED, "layers": [3, 3]}, **changes)
    with pytest.raises(CheckpointError, match=r"backend` is 'vllm'.* differ in layer_types"):
        prepare(load(file), file.parent)
    file = write_search(tmp_path, space={**STACKED, "variant": "swaps"}, **changes)
    assert summary(prepare(load(file), file.parent))["engine"].startswith("3 layers")
