"""Whatever `generation_config.json` says, a score is lm-eval's, or both refuse the model."""

import json
import random

import pytest
import torch
import yaml
from lm_eval.models.huggingface import HFLM
from lm_tasks import asking, requests_of, runner_of, write_task
from transformers import AutoModelForCausalLM, GenerationConfig

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.lm_eval.tasks import Harness

pytestmark = pytest.mark.thorough

PLAIN = {"eos_token_id": 1, "bos_token_id": 1, "pad_token_id": 0}
VALUES = yaml.safe_load("""
{max_length: 5, max_new_tokens: 1, min_length: 40, min_new_tokens: 5, early_stopping: never,
max_time: 100.0, stop_strings: ["1"], do_sample: true, num_beams: 3, use_cache: false,
cache_implementation: static, temperature: 0.3, top_k: 5, top_p: 0.5, top_h: 0.4, typical_p: 0.5,
repetition_penalty: 1.8, encoder_repetition_penalty: 2.0, no_repeat_ngram_size: 1,
bad_words_ids: [[12]], renormalize_logits: true, forced_bos_token_id: 7, forced_eos_token_id: 7,
exponential_decay_length_penalty: [1, 2.0], suppress_tokens: [10, 11, 12, 13],
begin_suppress_tokens: [9, 10, 11], sequence_bias: [[[10], 5.0]], token_healing: true,
guidance_scale: 1.5, watermarking_config: {bias: 5.0}, return_dict_in_generate: true,
output_scores: true, pad_token_id: 5, bos_token_id: 7, eos_token_id: [1, 12],
encoder_no_repeat_ngram_size: 1, is_assistant: true, num_assistant_tokens: 3,
prompt_lookup_num_tokens: 2, penalty_alpha: 0.6, prefill_chunk_size: 2, a_setting_of_next_year: 1}
""")
DRAWN = {"top_p": 0.5, "min_p": 0.2, "typical_p": 0.3, "epsilon_cutoff": 0.05, "eta_cutoff": 0.05}
REFUSED = {"stop_strings", "token_healing", "return_dict_in_generate", "is_assistant"}
DOCUMENTS = (0, 12)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder with a task that generates greedily and one that samples, with long texts."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = (zoo.tasks_path() / "zoo_steps.jsonl").read_text().splitlines()[:20]
    texts = {"doc_to_text": "{{prompt[:14]}}", "doc_to_target": "{{answer}}"}
    for name, drawn in {"greedy": {"do_sample": False}, "drawn": {"temperature": 1.3}}.items():
        drawn |= {"until": ["<eos>"], "max_gen_toks": 10}
        write_task(folder, name, map(json.loads, lines), generation_kwargs=drawn, **texts)
    return folder


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(zoo.path("maths"), dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def theirs(model, zoo_maths, tasks, by_lm_eval):
    """Return the texts of stock lm-eval, given a generation config."""

    def answer(settings):
        model.generation_config = GenerationConfig.from_dict({**PLAIN, **settings})
        lm = HFLM(pretrained=model, tokenizer=zoo_maths[1], batch_size=1)
        rows = by_lm_eval(lm, tasks, ["greedy"], DOCUMENTS)["samples"]["greedy"]
        return [row["resps"][0][0] for row in sorted(rows, key=lambda row: row["doc_id"])]

    return answer


@pytest.fixture(scope="module")
def answered(model, zoo_maths, tasks):
    """Return an evaluator that has answered a task, given a generation config."""
    harness = Harness(["greedy", "drawn"], [tasks])

    def answer(settings, task="greedy"):
        model.generation_config = GenerationConfig.from_dict({**PLAIN, **settings})
        evaluator = asking(harness)
        evaluator.prepare(model, zoo_maths[1], {"search": {task: DOCUMENTS}})
        evaluator.score(model)
        return evaluator

    return answer


FEW = """
    max_new_tokens min_new_tokens stop_strings do_sample num_beams use_cache repetition_penalty
    bad_words_ids forced_eos_token_id suppress_tokens eos_token_id a_setting_of_next_year
"""
"""Settings that lm-eval, our own loop and `generate` heed in different places."""


@pytest.mark.parametrize("names", [FEW.split(), pytest.param([*VALUES], marks=pytest.mark.long)])
def test_every_generation_config_gives_lm_evals_texts_or_is_refused(theirs, answered, names):
    """Each setting alone, and a few pairs."""
    rng, changed, plain = random.Random(0), 0, theirs({})
    fine = [(name, VALUES[name]) for name in names if name not in REFUSED]
    pairs = [dict(rng.sample(fine, 2)) for _ in range(len(names) // 6)]
    for settings in [{}, *({name: VALUES[name]} for name in names), *pairs]:
        try:
            expected = theirs(settings)
        except Exception:
            with pytest.raises(ConfigError, match="lm-eval cannot score the host"):
                answered(settings)
            continue
        assert not REFUSED & settings.keys()
        ours = answered(settings).tasks_of("search").of("greedy").texts("greedy", DOCUMENTS)
        assert list(ours.values()) == expected, settings
        changed += expected != plain
    assert changed >= len(names) / 4  # the settings matter
    assert not runner_of(answered({"a_setting_of_next_year": 1})).forward.own_loop


def test_settings_of_drawing_are_ours_or_lm_evals(model, answered):
    """Each text has a seed of its own, so that texts are compared with `generate`, one by one."""
    texts = set()
    for settings in ({}, *({name: value} for name, value in DRAWN.items())):
        evaluator = answered(settings, "drawn")
        for document in DOCUMENTS:
            (request,) = requests_of(evaluator, "drawn")[document]
            (mine,) = request.instance.resps
            runner_of(evaluator).forward.reference.answer_alone(model, request)
            assert request.instance.resps == [mine], settings
            texts.add(mine)
    assert len(texts) > len(DOCUMENTS) + 1
