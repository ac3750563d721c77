"""YAML, JSON and texts become plain values, or an error of one sentence that names the line."""

import itertools

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import EvomergeError, RecipeError, one_line
from evomerge.parsing.texts import (
    DEEPEST,
    json_value,
    read_text,
    yaml_mapping,
    yaml_text,
    yaml_value,
)
from evomerge.parsing.values import Values, shown

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
)
plain = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=20,
)


def read(text):
    return yaml_value(text, "the file", RecipeError)


@given(plain)
def test_plain_values_that_are_written_and_read_stay_the_same(value):
    assert read(yaml.safe_dump(value)) == value
    assert read(yaml.safe_dump(value, default_flow_style=True)) == value


def test_the_keys_of_a_mapping_override_merged_keys_and_aliases_become_copies():
    text = "a: &a {k: 1, x: 1}\nb: {deep: &b {<<: *a, k: 2}}\nc: {<<: [*b, *a], y: 3}\n"
    assert read(text)["c"] == {"k": 2, "x": 1, "y": 3}
    value = read("a: &a [1, {x: 1}]\nb: *a\n")
    value["b"][1]["x"] = 2
    assert value["a"] == [1, {"x": 1}]


ALIASES_IN_ALIASES = "\n".join(
    ["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 100))]
)


def bomb(first, before, after, entry):
    """Nine levels of a YAML text, of which each refers nine times to the one before."""
    text = f"a: &a {first}"
    for above, name in itertools.pairwise("abcdefghi"):
        entries = ", ".join(f"{entry.format(i)}*{above}" for i in range(9))
        text += f"\n{name}: &{name} {before}{entries}{after}"
    return text


BOMBS = [
    bomb("[x]", "[", "]", ""),
    bomb("{x: 1}", "{", "}", "k{}: "),
    bomb("{x: 1}", "{<<: [", "]}", ""),
    f"a: &a {9000 * 'x'}\nb: [{', '.join(12 * ['*a'])}]",
]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"line 3: the key 'a' is given twice"),
        ("a: 1\n'a': 3", r"line 2: the key 'a' is given twice"),
        ("a: 1\nb: 2001-01-01", r"line 2: '2001-01-01' has the YAML type 'timestamp'.*quotes"),
        ("a:\n- !!binary aGk=", r"line 2: 'aGk=' has the YAML type 'binary'"),
        ("a: 1\nb: !!set {x}", r"line 2: the YAML type 'set' is not supported"),
        ("a: !!python/object/apply:os.getcwd []", r"line 1: the YAML type 'python/object/apply:"),
        ("a: 1\nb: !!int x", r", line 2: 'x' is not a value of the YAML type int"),
        ("a: 0x" + "f" * 4000, "line 1: '0xfff.*' is not a value of the YAML type int"),
        ("\n\n? [1]\n: 2", r"line 3: a key must be a word or a number"),
        ("a: &a [*a]", r"line 1: lists or mappings are nested more than 64 deep"),
        ("a: 1\n<<: 1", r"line 2: `<<` needs a mapping"),
        ('a: "\\ud800"', r"line 1: text has an unpaired surrogate"),
        ("a: [", r"not valid YAML in line 1"),
        ("a: 1\n---\nb: 1", r"has several documents \(`---`\); put each into a file"),
        ("a: \0", r"not valid YAML: unacceptable character"),
        ('a: "\\UFFFFFFFF"', r"not valid YAML"),
        (ALIASES_IN_ALIASES, r"more than 64 deep"),
        *((item, r"line \d: aliases expand to more than 100000") for item in BOMBS),
        *((f * 5000 + "1", "more than 64 deep") for f in ("[", "{a: ", "- ")),
        ("- " * (DEEPEST + 1) + "1", "more than 64 deep"),
    ],
)
def test_unsupported_yaml_is_refused_with_its_line(text, message):
    with pytest.raises(RecipeError, match=f"the file.*{message}"):
        read(text)


def test_yaml_and_json_may_be_nested_up_to_the_limit():
    deep = f"{'[' * DEEPEST}1{']' * (DEEPEST - 1)}, [], {{}}]"
    assert len(json_value(deep, "f", RecipeError)) == 3
    assert read("- " * (DEEPEST - 1) + "1") and read(deep.replace("[1]", "1"))


@pytest.mark.parametrize(
    "text", ["35091646155e5483", "86419163157680e5", "1e5", "+2E-3", "12", "0x1f", "1.5", "a: b"]
)
def test_a_text_that_looks_like_a_number_is_read_as_it_was_written(text):
    """The digests in a run's search file are such texts once in a thousand times."""
    data = {"digest": text, "number": 1e-05, "list": [text, 3, None, True]}
    assert yaml_mapping(yaml_text(data), "it", "a mapping", RecipeError) == data
    assert yaml_mapping(yaml_text(data, flow=None), "it", "it", RecipeError) == data


def test_json_keeps_the_values_of_model_configs():
    text = '{"limit": [0.0, Infinity], "pair": "\\ud83d\\ude00", "zero": "\\u0000"}'
    known = {"limit": [0.0, float("inf")], "pair": "😀", "zero": "\0"}
    assert json_value(text, "f", RecipeError) == known


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "damaged"),
        (b"\xff\xfe{}", "damaged"),
        ("9" * 5000, "damaged"),
        ('{"a": "\\ud800"}', "an unpaired surrogate"),
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
    nested = ["x" * 10**6]
    for _ in range(50):
        nested = [nested] * 100
    assert len(shown(nested)) < 300 and len(shown("x" * 10**6)) < 200
    error = str(EvomergeError("first\nsecond \ud800\x07 " + "x" * 5000))
    assert error.startswith("first second ?  xxx") and str(EvomergeError(error)) == error
    assert one_line(ValueError("a\nb")) == "a"
