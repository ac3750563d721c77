"""Configs of other tools with something wrong in them: a search file or a sentence, and no code."""

import json

import pytest
import yaml
from hypothesis import given
from known_models import KnownModels
from mutations import FUZZ, value_or_error, yaml_files

from evomerge.config.schema import parse
from evomerge.mergekit.convert import convert

EVOLVE = {
    "genome": {
        "models": ["org/one", "org/two"],
        "merge_method": "dare_ties",
        "base_model": "org/base",
        "tokenizer_source": "base",
        "layer_granularity": 4,
        "normalize": False,
        "allow_negative_weights": True,
        "smooth": True,
        "filters": ["self_attn", "mlp"],
    },
    "tasks": [
        {"name": "alpaca", "weight": -1.0, "metric": "acc,none"},
        {"name": "gsm8k", "metric": "exact_match,strict-match"},
    ],
    "limit": 100,
    "num_fewshot": 2,
    "shuffle": False,
    "apply_chat_template": True,
}
MERGENETIC = {
    "pop_size": 4,
    "n_iter": 5,
    "langs": ["it", "de"],
    "models": {"it": "org/italian", "de": "org/german"},
    "base_model": "org/base",
    "tasks": {"search": {"it": "a", "de": "b", "base": "a"}, "test": {"it": "c", "de": "b"}},
    "metric": "acc",
    "mode": "gmpirt",
    "n_samples": 20,
    "seed": 420,
    "dtype": "float16",
    "device": "cuda:2",
    "eval_batch_size": 8,
    "additional_templates_folder": "lm_tasks",
    "datasets": {"it": "data/it.csv", "de": "data/de.csv"},
    "run_id": "one",
}


def search_file(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    return convert(text, "config.yaml", KnownModels(8, True)).text


@FUZZ
@given(data=yaml_files(EVOLVE) | yaml_files(MERGENETIC))
def test_configs_of_other_tools(data):
    converted = value_or_error(lambda: search_file(data))
    if converted is not None:
        value_or_error(lambda: parse(yaml.safe_load(converted), "search.yaml"))
        converted.encode()  # a terminal can print it


@pytest.mark.parametrize("config", [EVOLVE, MERGENETIC])
def test_the_configs_that_are_mutated_are_valid(config):
    parse(yaml.safe_load(search_file(json.dumps(config).encode())), "search.yaml")
