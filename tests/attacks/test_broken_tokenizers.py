"""Tokenizers and chat templates that fail: each is one sentence, before the search starts."""

import copy
import json
from types import SimpleNamespace

import pytest
from attacks.targets.models import BPE
from search_run import SMALL, problem_of
from tiny import copy_of, edit_tokenizer
from tokenizers import Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

import evomerge.__main__ as program
from evomerge.errors import CheckpointError, ConfigError
from evomerge.evaluation.inference.reference import ReferenceLM

pytestmark = pytest.mark.thorough


def test_a_tokenizer_that_candidates_do_not_have_may_be_anything(tmp_path):
    other = str(copy_of("maths", tmp_path / "other"))
    edit_tokenizer(tmp_path / "other", padding_side="up")
    search = SMALL | {"parents": ["zoo:language", other]}
    assert problem_of(search)
    with pytest.raises(CheckpointError, match="'right' and 'left'"):
        problem_of(search | {"tokenizer": other})


PANICKING = copy.deepcopy(BPE)
PANICKING["model"]["continuing_subword_prefix"] = "0.5"


def test_a_panic_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(program, "run", lambda _: Tokenizer.from_str(json.dumps(PANICKING)))
    monkeypatch.setattr(program.signal, "getsignal", lambda number: program.signal.SIG_IGN)
    monkeypatch.setattr(program.sys, "argv", ["evomerge", "list"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("evomerge: PanicException: ")
    assert said.endswith("(--debug shows the traceback)")


CHAT = [{"role": "user", "content": "What is 1 + 1?"}]


def render(text):
    """Render as transformers does."""
    apply = lambda chat: render_jinja_template([chat], chat_template=text)[0][0]  # noqa: E731
    model = SimpleNamespace(_lm=SimpleNamespace(apply_chat_template=apply))
    return ReferenceLM.chat_template(model, CHAT)


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no [red] system\\n\\x1b[2J') }}",
        "{{ 1 // 0 }}",
        "{{ messages[7]['role'].x.y }}",
        "{% for %}",
        "{{ cycler.__init__.__globals__.os.popen('x') }}",
        "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
        "{{ 'x' * 10**10 }}",
    ],
)
def test_a_nasty_template_is_one_sentence(template):
    with pytest.raises(ConfigError, match="chat template of the model cannot be used") as caught:
        render(template)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    plain = "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}"
    assert render(plain + "{% endfor %}") == "user: What is 1 + 1?"
