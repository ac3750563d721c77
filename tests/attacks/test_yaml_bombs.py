"""Small YAML files that expand to a lot: what is printed stays short."""

import itertools

import pytest
from search_run import SMALL, write_search

from evomerge.__main__ import run as call
from evomerge.errors import InputError
from evomerge.parsing.values import shown
from evomerge.parsing.yaml import ALIASED, yaml_value

pytestmark = pytest.mark.thorough

LAUGHS = "".join(
    f"{name}: &{name} [{', '.join(10 * [f'*{before}'])}]\n"
    for before, name in itertools.pairwise("abcdefghi")
)
BOMBS = {
    "lists": f"a: &a [{', '.join(10 * 'x')}]\n{LAUGHS}",
    "mappings": "a: &a {x: 1}\n"
    + "".join(
        f"{name}: &{name} {{{', '.join(f'k{i}: *{before}' for i in range(9))}}}\n"
        for before, name in itertools.pairwise("abcdefg")
    ),
    "merged keys": "a: &a {x: 1}\n"
    + "".join(
        f"{name}: &{name} {{<<: [{', '.join(9 * [f'*{before}'])}]}}\n"
        for before, name in itertools.pairwise("abcdefgh")
    ),
    "one long text": f"a: &a {9000 * 'x'}\nb: [{', '.join(12 * ['*a'])}]\n",
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("command", ["validate", "merge"])
def test_every_command_refuses_it_with_one_sentence(bomb, command, tmp_path, capsys):
    file = tmp_path / "bomb.yaml"
    file.write_text(BOMBS[bomb])
    out = ["--out", str(tmp_path / "out")] if command == "merge" else []
    with pytest.raises(InputError, match=f"aliases expand to more than {ALIASED} characters") as it:
        call([command, str(file), *out])
    assert len(str(it.value)) < 1000
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("key", ["parents", "space", "seed", "x"])
def test_what_is_just_small_enough_is_shown_in_short(key, tmp_path, capsys):
    inner = "[" + ", ".join(4 * [44 * "x"]) + "]"
    text = f"a: &a {inner}\nb: &b [{', '.join(20 * ['*a'])}]\n{key}: [{', '.join(20 * ['*b'])}]\n"
    value = yaml_value(text, "a text", InputError)[key]
    assert len(str(value)) > 70_000 and len(shown(value)) < 250
    file = write_search(tmp_path, **{key: value})
    with pytest.raises(InputError) as caught:
        call(["validate", str(file)])
    assert len(str(caught.value)) < 1000
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("key", ["candidates", "patience"])
def test_a_budget_without_end_is_refused(key, tmp_path):
    file = write_search(tmp_path, budget={**SMALL["budget"], key: int(300 * "9")})
    with pytest.raises(InputError, match=f"`budget.{key}` is 9+.* at most 1000000000") as caught:
        call(["validate", str(file)])
    assert len(str(caught.value)) < 1000
