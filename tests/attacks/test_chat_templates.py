"""Chat templates from strangers: those that fail, and those that try to run code."""

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.reference import _explained

pytestmark = pytest.mark.thorough

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
