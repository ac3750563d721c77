"""Small YAML files that expand to a lot: what is printed stays short."""

import itertools

import pytest
import tiny
from search_run import write_search

from evomerge.__main__ import run as call
from evomerge.errors import InputError
from evomerge.export.parents import common_licence, describe_parents
from evomerge.models.references import open_parent
from evomerge.parsing.values import shown
from evomerge.parsing.yaml import ALIASED, yaml_value

pytestmark = pytest.mark.thorough


def nested(first, before, after, entry):
    """Nine levels of a YAML text, of which each refers nine times to the one before."""
    text = f"a: &a {first}"
    for above, name in itertools.pairwise("abcdefghi"):
        entries = ", ".join(f"{entry.format(i)}*{above}" for i in range(9))
        text += f"\n{name}: &{name} {before}{entries}{after}"
    return text


BOMBS = {
    "lists": nested("[x]", "[", "]", ""),
    "mappings": nested("{x: 1}", "{", "}", "k{}: "),
    "merged keys": nested("{x: 1}", "{<<: [", "]}", ""),
    "one long text": f"a: &a {9000 * 'x'}\nb: [{', '.join(12 * ['*a'])}]",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_command_refuses_it_with_one_sentence_and_a_card_says_nothing(bomb, tmp_path, capsys):
    (tmp_path / "bomb.yaml").write_text(BOMBS[bomb])
    for words in (["validate"], ["merge", "--out", str(tmp_path / "out")]):
        with pytest.raises(InputError, match=f"expand to more than {ALIASED} characters") as found:
            call([words[0], str(tmp_path / "bomb.yaml"), *words[1:]])
        assert len(str(found.value)) < 1000
    assert capsys.readouterr() == ("", "")
    model = open_parent(str(tiny.make(tmp_path / "model", "llama")), tmp_path)
    (model.folder / "README.md").write_text(f"---\nlicense: mit\n{BOMBS[bomb]}\n---\n")
    assert common_licence([describe_parents({"model": model})["model"]]) is None


@pytest.mark.parametrize("key", ["parents", "seed"])
def test_what_is_just_small_enough_is_shown_in_short(key, tmp_path):
    inner = "[" + ", ".join(4 * [44 * "x"]) + "]"
    text = f"a: &a {inner}\nb: &b [{', '.join(20 * ['*a'])}]\n{key}: [{', '.join(20 * ['*b'])}]\n"
    value = yaml_value(text, "a text", InputError)[key]
    assert len(str(value)) > 70_000 and len(shown(value)) < 250
    with pytest.raises(InputError) as caught:
        call(["validate", str(write_search(tmp_path, **{key: value}))])
    assert len(str(caught.value)) < 1000
