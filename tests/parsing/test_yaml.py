"""YAML becomes plain values of a few types; error messages name the line."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import RecipeError
from evomerge.parsing.texts import DEEPEST
from evomerge.parsing.yaml import yaml_mapping, yaml_text, yaml_value

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


def test_the_keys_of_a_mapping_override_merged_keys():
    text = "a: &a {k: 1, x: 1}\nb: {deep: &b {<<: *a, k: 2}}\nc: {<<: [*b, *a], y: 3}\n"
    assert read(text)["c"] == {"k": 2, "x": 1, "y": 3}


def test_aliases_become_copies():
    value = read("a: &a [1, {x: 1}]\nb: *a\n")
    value["b"][1]["x"] = 2
    assert value["a"] == [1, {"x": 1}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", r"line 3: the key 'a' is given twice"),
        ("a: 1\n'a': 3", r"line 2: the key 'a' is given twice"),
        ("a: 1\nb: 2001-01-01", r"line 2: '2001-01-01' has the YAML type 'timestamp'.*quotes"),
        ("a:\n- !!binary aGk=", r"line 2: 'aGk=' has the YAML type 'binary'"),
        ("a: 1\nb: !!set {x}", r"line 2: the YAML type 'set' is not supported"),
        (
            "a: !!python/object/apply:os.getcwd []",
            r"line 1: the YAML type 'python/object/apply:os.getcwd'",
        ),
        ("a: 1\nb: !!int x", r"line 2: 'x' is not a whole number"),
        ("a: !!float ''", r"line 1: '' is not a number"),
        ("a: !!bool maybe", r"line 1: 'maybe' is not true or false"),
        ("\n\n? [1]\n: 2", r"line 3: a key must be a word or a number"),
        ("a: &a [*a]", r"line 1: lists or mappings are nested more than 64 deep"),
        ("a: 1\n<<: 1", r"line 2: `<<` needs a mapping"),
        ("a: 0x" + "f" * 5000, r"line 1: a number has more than 400 characters"),
        ('a: "\\ud800"', r"line 1: text has an unpaired surrogate"),
        ("a: [", r"not valid YAML in line 1"),
        ("a: 1\n---\nb: 1", r"has several documents \(`---`\); put each into a file"),
        ("a: \0", r"not valid YAML: unacceptable character"),
        ('a: "\\UFFFFFFFF"', r"not valid YAML"),
    ],
)
def test_unsupported_yaml_is_refused_with_its_line(text, message):
    with pytest.raises(RecipeError, match=f"the file.*{message}"):
        read(text)


@pytest.mark.parametrize("depth", [DEEPEST - 1, DEEPEST + 1, 5000])
@pytest.mark.parametrize("form", ["[{}]", "{{a: {}}}", "- {}"])
def test_deep_nesting_is_refused(depth, form):
    before, after = form.format("x").split("x")
    text = before * depth + "1" + after * depth
    if depth < DEEPEST:
        assert read(text)
    else:
        with pytest.raises(RecipeError, match=r"more than 64 deep"):
            read(text)


def test_the_nesting_inside_of_aliases_counts():
    lines = ["a0: &a0 [1]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 100))]
    with pytest.raises(RecipeError, match=r"line 63: .* more than 64 deep"):
        read("\n".join(lines))


def test_aliases_cannot_expand_a_small_text_into_a_huge_value():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(RecipeError, match=r"line \d: aliases expand to more than 100000"):
        read("\n".join(lines))


@pytest.mark.parametrize("text", ["", "1", "[a]", "null", "# nothing"])
def test_a_file_that_is_not_a_mapping_is_refused(text):
    with pytest.raises(RecipeError, match=r"the file is not a recipe: it must be a YAML mapping"):
        yaml_mapping(text, "the file", "a recipe", RecipeError)


@pytest.mark.parametrize(
    "text", ["35091646155e5483", "86419163157680e5", "1e5", "+2E-3", "12", "0x1f", "1.5", "a: b"]
)
def test_a_text_that_looks_like_a_number_is_read_as_it_was_written(text):
    """The digests in a run's search file are such texts once in a thousand times."""
    data = {"digest": text, "number": 1e-05, "list": [text, 3, None, True]}
    assert yaml_mapping(yaml_text(data, width=80), "it", "a mapping", RecipeError) == data
    assert yaml_mapping(yaml_text(data, width=80, flow=None), "it", "it", RecipeError) == data
