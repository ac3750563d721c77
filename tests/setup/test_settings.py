"""Parents that differ from the merges beside their weights are named, and scored as they are."""

from __future__ import annotations

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

from evomerge.setup.parents_as_themselves import differences
from evomerge.setup.preflight import warnings


def different(parents: list[Path], base: Path, **more: Any) -> dict[str, list[str]]:
    """Return name of a parent -> what of it differs."""
    found = differences(problem_of(search_over(parents, base, **more)))
    return {Path(name).name: keys for name, keys in found.items()}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return copy_of("base", tmp_path / "base", PLAIN)


def test_what_differs_of_a_parent_is_one_line(tmp_path: Path, base: Path) -> None:
    one = copy_of("maths", tmp_path / "one", OTHER, rope_theta=500000.0)
    two = copy_of("language", tmp_path / "two", PLAIN, rms_norm_eps=1e-5)
    edit_generation(two, eos_token_id=[1, 5])
    problem = problem_of(search_over([one, two], base, chat=True))
    assert problem.unlike_merges == (str(one), str(two))
    notes = [note for note in warnings(problem, allow_benchmarks=True) if "not like" in note]
    assert notes == [
        "one is not like the merges in rope_theta and chat template; its final scores are of the "
        "parent as it is.",
        "two is not like the merges in rms_norm_eps and generation_config.json; its final scores "
        "are of the parent as it is.",
    ]


def test_a_parent_with_the_files_of_the_host_is_like_the_merges(tmp_path: Path, base: Path) -> None:
    noise = {"_name_or_path": "x", "use_cache": False, "transformers_version": "4.0"}
    one = copy_of("maths", tmp_path / "one", OTHER, **noise)  # the search applies no template
    edit_generation(one, transformers_version="4.0")
    assert different([one, base], base) == {"one": [], "base": []}


def test_another_tokenizer_or_dtype_makes_a_parent_unlike_the_merges(
    tmp_path: Path, base: Path
) -> None:
    other = copy_of("language", tmp_path / "other")
    edit_tokenizer(other, eos_token="<pad>")
    assert different([other, base], base) == {"other": ["tokenizer"], "base": []}
    found = different([base, copy_of("maths", tmp_path / "maths", PLAIN)], base, dtype="bfloat16")
    assert found == {"base": ["dtype"], "maths": ["dtype"]}


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
    found = differences(problem_of(data))
    assert all("tokenizer" in keys for keys in found.values())
