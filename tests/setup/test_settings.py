"""The settings by which parents differ are named before the search, if they change results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from known_parents import (
    OTHER,
    PLAIN,
    copy_of,
    edit_generation,
    edit_tokenizer,
    problem_of,
    search_over,
)
from search_run import SMALL
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from evomerge.setup.model_settings import settings_of_tokenizer
from evomerge.setup.preflight import warnings


def lines_of(parents: list[Path], base: Path, **more: Any) -> list[str]:
    """Return the sentences about settings that precede a search."""
    problem = problem_of(search_over(parents, base, **more))
    return [note for note in warnings(problem, allow_benchmarks=True) if "differs between" in note]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return copy_of("base", tmp_path / "base", PLAIN)


def test_each_setting_is_one_line_that_says_who_has_what(tmp_path: Path, base: Path) -> None:
    one = copy_of("maths", tmp_path / "one", OTHER, rope_theta=500000.0)
    two = copy_of("language", tmp_path / "two", PLAIN, rms_norm_eps=1e-5)
    edit_generation(two, eos_token_id=[1, 5])
    found = lines_of([one, two], base, chat=True)
    assert [line.split(" ")[0] for line in found] == [
        "rope_parameters.rope_theta",
        "chat_template",
        "rms_norm_eps",
        "generation_config.eos_token_id",
    ]
    assert found[0] == (
        "rope_parameters.rope_theta differs between the parents: 500000.0 in one, 10000.0 in two "
        "and base; the merge takes it from the host base."
    )


def test_what_changes_no_score_is_not_named(tmp_path: Path, base: Path) -> None:
    one = copy_of(
        "maths",
        tmp_path / "one",
        OTHER,  # the search applies no template
        _name_or_path="x",
        use_cache=False,
        attention_dropout=0.1,
        initializer_range=1.0,
        bos_token_id=2,
    )
    edit_generation(one, max_length=7, top_p=0.5, bos_token_id=2, transformers_version="4.0")
    edit_tokenizer(
        one,
        name_or_path="y",
        add_bos_token=False,
        additional_special_tokens=["<pad>"],
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
        legacy=False,
        padding_side="left",
        sp_model_kwargs={},
        spaces_between_special_tokens=False,
        truncation_side="left",
        use_default_system_prompt=True,
        what_another_program_has_added=1,
    )
    problem = problem_of(search_over([one, base], base))
    assert problem.settings == () and problem.unlike_merges == ()


def test_generation_settings_count_only_where_texts_are_generated(
    tmp_path: Path, base: Path
) -> None:
    one = copy_of("maths", tmp_path / "one")
    edit_generation(one, eos_token_id=5)
    choices = {"objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}]}
    assert lines_of([one, base], base, **choices) == []
    assert len(lines_of([one, base], base)) == 1


def test_tokenizers_are_compared_by_what_they_do_to_texts(tmp_path: Path, base: Path) -> None:
    same = copy_of("maths", tmp_path / "same")
    file = same / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=7))  # other bytes, no more
    other = copy_of("language", tmp_path / "other")
    edit_tokenizer(other, eos_token="<pad>")
    problem = problem_of(search_over([same, other], base))
    assert problem.unlike_merges == (str(other),)
    assert [item.name for item in problem.settings] == ["eos_token"]
    assert problem.settings[0].parents[str(other)] == "<pad>"


def test_spaces_that_decoding_takes_away_count_where_texts_are_generated(
    tmp_path: Path, base: Path
) -> None:
    one = copy_of("maths", tmp_path / "one")
    edit_tokenizer(one, clean_up_tokenization_spaces=True)
    choices = {"objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}]}
    assert lines_of([one, base], base, **choices) == []
    assert lines_of([one, base], base) == [
        "clean_up_tokenization_spaces differs between the parents: true in one, false in base; "
        "the merge takes it from the host base."
    ]


def test_spaces_are_left_where_transformers_ignores_the_setting() -> None:
    core = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))

    def settings(**more: Any) -> dict[str, Any]:
        return settings_of_tokenizer(
            PreTrainedTokenizerFast(tokenizer_object=core, **more), texts=True, functions=False
        )

    assert settings(clean_up_tokenization_spaces=True) == settings()
    forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    assert settings(clean_up_tokenization_spaces=True, **{forced: True}) != settings()


def test_functions_may_use_what_lm_eval_does_not(tmp_path: Path, base: Path) -> None:
    one = copy_of("maths", tmp_path / "one")
    edit_tokenizer(one, padding_side="left")
    tokenizer = AutoTokenizer.from_pretrained(one)
    assert "padding_side" in settings_of_tokenizer(tokenizer, texts=True, functions=True)
    assert "padding_side" not in settings_of_tokenizer(tokenizer, texts=True, functions=False)


def test_the_rows_of_another_vocabulary_make_a_parent_unlike_the_merge(tmp_path: Path) -> None:
    words = [*tiny.WORDS, "another"]
    tiny.make(tmp_path / "a", seed=1)
    tiny.make(tmp_path / "b", seed=2, vocab_size=len(words), tokenizer=False)
    tiny.save_tokenizer(tmp_path / "b", words)
    data = SMALL | {
        "parents": [str(tmp_path / "a"), str(tmp_path / "b")],
        "base": None,
        "space": {"kind": "parameters", "method": "linear"},
        "tokenizer": "union",
        "objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}],
    }
    problem = problem_of(data)
    assert problem.unlike_merges == (str(tmp_path / "a"),)
    assert problem.settings == ()  # the plan of the tokenizer tells of tokens
