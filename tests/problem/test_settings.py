"""What of a parent differs from the merges beside its weights is named; nothing else is."""

from pathlib import Path

import tiny
from search_run import SMALL, problem_of, search_over
from tiny import OTHER, PLAIN, copy_of, edit_generation, edit_tokenizer

from evomerge.problem.parents_as_themselves import differences
from evomerge.problem.preflight import warnings


def test_what_differs_of_a_parent_is_named(tmp_path: Path) -> None:
    base = copy_of("base", tmp_path / "base", PLAIN)
    noise = {"_name_or_path": "x", "use_cache": False, "transformers_version": "4.0"}
    like = copy_of("maths", tmp_path / "like", PLAIN, **noise)
    one = copy_of("maths", tmp_path / "one", OTHER, rope_theta=500000.0)
    two = copy_of("language", tmp_path / "two", PLAIN)
    edit_generation(two, eos_token_id=[1, 5])
    edit_tokenizer(two, eos_token="<pad>")
    problem = problem_of(search_over([like, one, two], base, chat=True))
    expected = [[], ["rope_theta", "chat template"], ["generation_config.json", "tokenizer"], []]
    assert list(differences(problem).values()) == expected
    assert problem.unlike_merges == (str(one), str(two))
    (first, _) = [note for note in warnings(problem, True) if "not like" in note]
    assert first.startswith("one is not like the merges in rope_theta and chat template; its final")
    half = problem_of(search_over([like, base], base, dtype="bfloat16"))
    assert list(differences(half).values()) == [["dtype"], ["dtype"]]


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
