"""A config.json that transformers cannot build, or that does not fit the weights, is refused.

So is a setting that ends a text by the clock, since no score with it can be repeated.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from judging import SPLITS
from known_parents import copy_of
from search_run import SMALL

import evomerge
from evomerge import zoo
from evomerge.config.schema import parse
from evomerge.errors import CheckpointError, ConfigError, InputError
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.loading import check_task
from evomerge.merging.architecture.depth import built_config
from evomerge.merging.architecture.loadable import check_buildable
from evomerge.models.checkpoint import Checkpoint
from evomerge.setup.runs import prepare

pytestmark = pytest.mark.thorough

FEW = {"include": ["zoo:tasks"], **SPLITS}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "negative layers": ({"num_hidden_layers": -1}, "num_hidden_layers` is -1; it must be"),
    "no layers": ({"num_hidden_layers": 0}, "has no block 0"),
    "fewer layers": ({"num_hidden_layers": 2}, "has no block 2; copy config.json"),
    "more layers": ({"num_hidden_layers": 99}, "lacks the weight"),
    "10^12 layers": ({"num_hidden_layers": 10**12}, "allowed are 1 to 10,000"),
    "layers as text": ({"num_hidden_layers": "6"}, "num_hidden_layers` is '6'; it must be"),
    "no heads": ({"num_attention_heads": 0}, "zero"),
    "negative heads": ({"num_attention_heads": -4}, "negative"),
    "no key heads": ({"num_key_value_heads": 0}, "zero"),
    "10^12 tokens": ({"vocab_size": 10**12}, "needs [1000000000000, 96]"),
    "no tokens": ({"vocab_size": 0}, "cannot build LlamaForCausalLM"),
    "a token too many": ({"vocab_size": 114}, "needs [114, 96]; copy config.json"),
    "not divisible": ({"hidden_size": 7}, "not a multiple of the number of attention heads"),
    "narrow": ({"intermediate_size": 10}, "the model of config.json needs"),
    "a module": ({"hidden_act": "os"}, "'os'"),
    "a list": ({"hidden_act": ["silu"]}, "hidden_act"),
    "biases": ({"attention_bias": True}, "lacks the weight"),
    "rope as text": ({"rope_scaling": "nonsense"}, "nonsense"),
    "rope of no kind": ({"rope_scaling": {"type": "nonsense", "factor": -1}}, "'nonsense'"),
    "no type": ({"model_type": None}, "model_type"),
    "unknown type": ({"model_type": "nope"}, "does not know its model_type 'nope'"),
    "type as list": ({"model_type": ["llama"]}, "model_type` is ['llama']; it must be text"),
    "another type": ({"model_type": "gpt2"}, "cannot build LlamaForCausalLM"),
    "no class": ({"architectures": ["os"]}, "architectures ['os']"),
    "no model": ({"architectures": ["Trainer"]}, "architectures ['Trainer']"),
    "no number": ({"rms_norm_eps": "x"}, "rms_norm_eps"),
    "padding outside": ({"pad_token_id": 10**9}, "Padding_idx"),
    "no positions": ({"max_position_embeddings": -1}, "max_position_embeddings` is -1; it must be"),
    "no positions of GPT-2": ({"n_positions": 0}, "n_positions` is 0; it must be"),
    "labels": ({"id2label": 5}, "config.json"),
    "a section as text": ({"text_config": "x"}, "cannot build LlamaForCausalLM"),
}


def problem(folder: Path, **changes: Any) -> Any:
    return prepare(parse({**SMALL, "evaluation": FEW, **changes}, "search.yaml"), folder)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_config_is_refused(tmp_path: Path, case: str) -> None:
    changes, told = BROKEN[case]
    host = copy_of("base", tmp_path / "host", **changes)
    with pytest.raises(CheckpointError) as caught:
        problem(tmp_path, base=str(host))
    sentence = str(caught.value)
    assert str(host) in sentence and told in sentence
    assert "\n" not in sentence and len(sentence) < 1000


def test_the_config_of_every_parent_is_checked(tmp_path: Path) -> None:
    parent = copy_of("maths", tmp_path / "parent", hidden_act="os")
    with pytest.raises(CheckpointError, match="'os'"):
        problem(tmp_path, parents=["zoo:language", str(parent)])


def test_parents_with_equal_configs_are_built_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evomerge.merging.architecture import loadable

    built: list[str] = []

    def check(checkpoint: Checkpoint, config: Any) -> None:
        built.append(checkpoint.reference)

    monkeypatch.setattr(loadable, "check_buildable", check)
    other = copy_of("maths", tmp_path / "other", hidden_act="gelu", _name_or_path="elsewhere")
    problem(tmp_path, parents=["zoo:language", str(other), "zoo:maths"])
    assert built == ["zoo:base", str(other)]


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_models_as_transformers_saves_them_are_accepted(tmp_path: Path, architecture: str) -> None:
    checkpoint = Checkpoint.open(tiny.make(tmp_path / "model", architecture), architecture)
    check_buildable(checkpoint, built_config(checkpoint))


def save_old_buffers(tensors: dict[str, Any]) -> None:
    import torch

    for layer in range(3):
        name = f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"
        tensors[name] = torch.ones(4)


def save_no_norm(tensors: dict[str, Any]) -> None:
    del tensors["model.norm.weight"]


@pytest.mark.parametrize(
    ("change", "told"), [(save_old_buffers, None), (save_no_norm, "'model.norm.weight'")]
)
def test_tensors_may_be_left_over_but_not_missing(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str | None
) -> None:
    folder = tiny.make(tmp_path / "model")
    tiny.rewrite(folder, change)
    checkpoint = Checkpoint.open(folder, "model")
    if told is None:
        check_buildable(checkpoint, built_config(checkpoint))
    else:
        with pytest.raises(CheckpointError, match=told):
            check_buildable(checkpoint, built_config(checkpoint))


def test_a_search_that_fails_at_its_start_leaves_no_folder(tmp_path: Path) -> None:
    """Its model can be run, but not on the prompts of the task, which only the worker notices."""
    host = copy_of("base", tmp_path / "host", max_position_embeddings=3)
    config = {**SMALL, "base": str(host), "evaluation": FEW, "budget": {"candidates": 4}}
    run = tmp_path / "run"
    with pytest.raises(InputError, match="reads at most 3 tokens"):
        evomerge.search(config, run, progress=False)
    assert not run.exists()
    tiny.edit_config(host, max_position_embeddings=512)
    evomerge.search(config, run, progress=False)
    assert b'"winner"' in (run / "journal.jsonl").read_bytes()


def test_a_task_that_generates_for_a_limited_time_is_refused() -> None:
    harness = Harness(["zoo_maths"], [zoo.tasks_path()])
    task = harness._tasks["zoo_maths"]
    task.set_config(key="generation_kwargs", value={"max_time": 5.0}, update=True)
    with pytest.raises(ConfigError, match="'max_time', so its scores would depend on the speed"):
        check_task(task, "objectives", allow_code=False)
