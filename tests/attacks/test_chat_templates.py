"""Chat templates from strangers: those that fail, loop for ever or fill the memory."""

import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from evomerge.evaluation.inference.template import bounded
from transformers.utils.chat_template_utils import render_jinja_template

from evomerge.errors import ConfigError
from evomerge.evaluation.inference import template

CHAT = [{"role": "user", "content": "What is 1 + 1?"}]
ROUNDS = "{% for a in range(99999) %}"
NASTY = {
    "fails": "{{ raise_exception('no [red] system\\n\\x1b[2J') }}",
    "divides": "{{ 1 // 0 }}",
    "takes what is not there": "{{ messages[7]['role'].x.y }}",
    "is no template": "{% for %}",
    "leaves the sandbox": "{{ cycler.__init__.__globals__.os.popen('x') }}",
    "loops": f"{ROUNDS}{ROUNDS}{ROUNDS}{{% endfor %}}{{% endfor %}}{{% endfor %}}",
    "doubles": "{% set n = namespace(x='x') %}{% for a in range(60) %}"
    "{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "repeats": "{{ 'x' * 99999999999 }}",
    "is long": "{{ 'x' * 30000000 }}",
}


def render(text: str) -> str:
    """Render as transformers does."""
    return bounded(lambda chat: render_jinja_template([chat], chat_template=text)[0][0])(CHAT)


@pytest.mark.parametrize("kind", NASTY)
def test_a_nasty_template_is_one_sentence(monkeypatch, kind):
    monkeypatch.setattr(template, "SECONDS", 0.5)
    with pytest.raises(ConfigError, match="chat template of the model cannot be used") as caught:
        render(NASTY[kind])
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_a_loop_is_ended_in_a_thread_too_and_no_other_thread_is(monkeypatch):
    monkeypatch.setattr(template, "SECONDS", 0.5)
    stop = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        other = pool.submit(lambda: [time.sleep(0.01) for _ in iter(stop.is_set, True)])
        error = pool.submit(render, NASTY["loops"]).exception()
        stop.set()
        assert other.exception() is None
    assert isinstance(error, ConfigError) and "does not end within 0.5 s" in str(error)


def test_an_ordinary_template_is_rendered_as_ever():
    text = (
        "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}{% endfor %}"
    )
    assert render(text) == "user: What is 1 + 1?"
