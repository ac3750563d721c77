"""JSON and text files give plain values, or an error of one sentence that names the file."""

import json

import pytest

from evomerge.errors import EvomergeError, RecipeError, one_line
from evomerge.parsing.texts import DEEPEST, json_value, read_text
from evomerge.parsing.values import Values, shown


def test_json_keeps_the_values_of_model_configs():
    text = '{"limit": [0.0, Infinity], "pair": "\\ud83d\\ude00", "zero": "\\u0000"}'
    assert json_value(text, "f", RecipeError) == {
        "limit": [0.0, float("inf")],
        "pair": "😀",
        "zero": "\0",
    }


def test_json_may_be_nested_up_to_the_limit():
    text = f"{'[' * DEEPEST}1{']' * (DEEPEST - 1)}, [], {{}}]"
    assert len(json_value(text, "f", RecipeError)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        (b"\xff\xfe{}", "damaged"),
        ("9" * 5000, "damaged"),
        ('{"a": "\\ud800"}', "an unpaired surrogate"),
        ('{"\\udfff": 1}', "an unpaired surrogate"),
        ("[" * 5000 + "]" * 5000, "more than 64 deep"),
        ("[" * (DEEPEST + 1) + "]" * (DEEPEST + 1), "more than 64 deep"),
        ('{"a":' * 300 + "1" + "}" * 300, "more than 64 deep"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(RecipeError, match=f"the file.*{message}"):
        json_value(text, "the file", RecipeError)


def test_files_that_are_not_text(tmp_path):
    file = tmp_path / "file"
    with pytest.raises(RecipeError, match="does not exist"):
        read_text(file, RecipeError)
    file.write_bytes(b"good \xff")
    with pytest.raises(RecipeError, match="byte 5 is not UTF-8"):
        read_text(file, RecipeError)
    with pytest.raises(RecipeError, match="is a folder; give a file in it"):
        read_text(tmp_path, RecipeError)


def test_values_are_cut_in_messages():
    assert shown({"a": [1, 2.5, None]}) == "{'a': [1, 2.5, None]}"
    nested = ["x" * 10**6]
    for _ in range(50):
        nested = [nested] * 100
    assert len(shown(nested)) < 300
    assert len(shown("x" * 10**6)) < 200


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda v: v.mapping([], "a"), r"`a` is \[\]; it must be a mapping of keys"),
        (lambda v: v.mapping({1: 2}, "a"), r"key 1 in `a` is not text"),
        (lambda v: v.mapping({"wight": 1}, "a", ["weight"]), r"Did you mean 'weight'"),
        (lambda v: v.items({}, "a"), r"`a` is {}; it must be a list"),
        (lambda v: v.items([], "a", least=1), r"at least one entry"),
        (lambda v: v.text("", "a"), r"it must be text"),
        (lambda v: v.whole(True, "a"), r"`a` is True; it must be a whole number from 0"),
        (lambda v: v.whole(1.0, "a"), r"it must be a whole number"),
        (lambda v: v.whole(9, "a", least=1, most=8), r"from 1 to 8"),
        (lambda v: v.real("1", "a"), r"it must be a number"),
        (lambda v: v.real(float("nan"), "a"), r"must be finite"),
        (lambda v: v.real(10**400, "a"), r"must be finite"),
        (lambda v: v.flag(1, "a"), r"must be true or false"),
    ],
)
def test_values_of_a_wrong_type_are_refused(check, message):
    with pytest.raises(RecipeError, match=message):
        check(Values(RecipeError))


def test_errors_are_one_short_printable_line():
    error = EvomergeError("first\nsecond \ud800\x07 " + "x" * 5000)
    assert str(error).startswith("first second ?  xxx")
    assert len(str(error)) < 1000
    assert str(EvomergeError(str(error))) == str(error)
    assert one_line(ValueError("a\nb")) == "a"
    assert json.loads(json.dumps(str(error))) == str(error)
