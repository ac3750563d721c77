"""Tokenizers and chat templates that fail: each is one sentence, before the search starts.

Some files make the tokenizers library panic, which is no Exception in Python.
"""

import copy
import json

import pytest
from attacks.targets.models import BPE, tokenizer_pair
from known_parents import copy_of, edit_tokenizer
from search_run import SMALL
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

import evomerge.__main__ as program
from evomerge.config.schema import parse
from evomerge.errors import CheckpointError, ConfigError
from evomerge.evaluation.inference.reference import _explained
from evomerge.merging.backend import load_tokenizer
from evomerge.merging.tokenizers.union import check_merged
from evomerge.setup.runs import prepare

pytestmark = pytest.mark.thorough

CONFIGS = {
    "a list as class": ({"tokenizer_class": ["x"]}, "'list' object"),
    "a mapping as class": ({"tokenizer_class": {"x": 1}}, "'dict' object"),
    "a side that is none": ({"padding_side": "up"}, "'right' and 'left'"),
    "a side as number": ({"truncation_side": 7}, "'right' and 'left'"),
    "a length as text": ({"model_max_length": "x"}, "'int' and 'str'"),
}


@pytest.fixture
def host(tmp_path):
    return copy_of("base", tmp_path / "host")


def check(host, **changes):
    return prepare(parse({**SMALL, "base": str(host), **changes}, "search.yaml"), host.parent)


@pytest.mark.parametrize("case", CONFIGS)
def test_a_setting_that_transformers_cannot_use_is_refused(host, case):
    changes, told = CONFIGS[case]
    edit_tokenizer(host, **changes)
    with pytest.raises(CheckpointError) as caught:
        check(host)
    assert f"{str(host)!r} has no tokenizer that transformers can load" in str(caught.value)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_that_candidates_do_not_have_may_be_anything(host, tmp_path):
    other = copy_of("maths", tmp_path / "other")
    edit_tokenizer(other, padding_side="up")
    assert check(host, parents=["zoo:language", str(other)])
    with pytest.raises(CheckpointError, match="'right' and 'left'"):
        check(host, parents=["zoo:language", str(other)], tokenizer=str(other))


@pytest.mark.parametrize("name", ["tokenizer.json", "special_tokens_map.json"])
@pytest.mark.parametrize("target", ["itself", "nothing"])
def test_a_link_that_leads_nowhere_is_refused(host, name, target):
    (host / name).unlink(missing_ok=True)
    (host / name).symlink_to(name if target == "itself" else "nothing")
    with pytest.raises(CheckpointError, match=rf"{name} is a link that leads to no file"):
        check(host)


PANICKING = copy.deepcopy(BPE)
PANICKING["model"]["continuing_subword_prefix"] = "0.5"


def test_a_tokenizer_of_a_parent(tmp_path):
    folder, _ = tokenizer_pair(tmp_path, PANICKING)
    with pytest.raises(CheckpointError, match=r"no tokenizer that transformers can load .*range"):
        load_tokenizer(folder, "a")


def test_a_merged_tokenizer():
    with pytest.raises(CheckpointError, match=r"merged tokenizer cannot be loaded: .*range"):
        check_merged(PANICKING, {})


def test_a_panic_anywhere_else_is_one_sentence(monkeypatch, capsys):
    def panic(arguments):
        Tokenizer.from_str(json.dumps(PANICKING))

    monkeypatch.setattr(program, "run", panic)
    monkeypatch.setattr(program.signal, "getsignal", lambda number: program.signal.SIG_IGN)
    monkeypatch.setattr(program.sys, "argv", ["evomerge", "list"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("evomerge: PanicException: ") and said.endswith(
        "(--debug shows the traceback)"
    )


CHAT = [{"role": "user", "content": "What is 1 + 1?"}]
NASTY = {
    "fails": "{{ raise_exception('no [red] system\\n\\x1b[2J') }}",
    "divides": "{{ 1 // 0 }}",
    "takes what is not there": "{{ messages[7]['role'].x.y }}",
    "is no template": "{% for %}",
    "leaves the sandbox": "{{ cycler.__init__.__globals__.os.popen('x') }}",
}


def render(text: str) -> str:
    """Render as transformers does."""
    return _explained(lambda chat: render_jinja_template([chat], chat_template=text)[0][0])(CHAT)


@pytest.mark.parametrize("kind", NASTY)
def test_a_nasty_template_is_one_sentence(kind):
    with pytest.raises(ConfigError, match="chat template of the model cannot be used") as caught:
        render(NASTY[kind])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_an_ordinary_template_is_rendered_as_ever():
    text = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
    )
    assert render(text) == "user: What is 1 + 1?"
