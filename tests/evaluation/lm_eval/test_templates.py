"""Templates in the sandbox render as lm-eval renders them."""

import pytest
from jinja2 import BaseLoader, Environment, StrictUndefined

from evomerge.errors import ConfigError
from evomerge.trust.calls import TaskTemplates

DOCUMENT = {
    "question": "Who? {{x}}",
    "choices": {"text": ["a ", "b"], "label": ["A", "B"]},
    "options": ["yes", "no"],
    "answer": 1,
    "text": "One. Two\n",
    "n": 3,
}
USED = [
    "{{question.strip()}}\nAnswer:",
    "{{choices.text[answer]}} {{choices['label'].index('B')}}",
    "{% for o in options %}{{loop.index}}. {{o}}\n{% endfor %}",
    "{{ ['A', 'B', 'C'][answer] }}{{ text.split('. ')[0] | upper }}",
    "{{ text | regex_replace('o', '0') }}{{ '%s-%d' | format(question, n) }}\n",
    "{{ '{} {}'.format(n, answer) }}{% if answer == 1 %} one{% endif %}",
    "{% set a = namespace(v=0) %}{% for i in range(n) %}{% set a.v = a.v + i %}{% endfor %}{{a.v}}",
    "{{ options | join(', ') }} {{ choices | tojson }} {{ n ** 2 }} {{ 'ab' * n }}",
]


@pytest.fixture
def plain():
    """The environment that lm-eval makes."""
    made = Environment(loader=BaseLoader, undefined=StrictUndefined, keep_trailing_newline=True)
    made.filters["regex_replace"] = lambda text, old, new: text.replace(old, new)
    return made


@pytest.mark.parametrize("template", USED)
def test_a_template_renders_as_without_the_sandbox(plain, template):
    sandbox = TaskTemplates(plain)
    rendered = sandbox.from_string(template).render(**DOCUMENT)
    assert rendered == plain.from_string(template).render(**DOCUMENT)
    assert sandbox._compiled(template) is sandbox._compiled(template), "compiled once"


@pytest.mark.parametrize(
    "template",
    [
        "{{ cycler.__init__.__globals__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ question.format.__globals__ }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(question) }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ missing }}",
        "{{ n // 0 }}",
        "{{",
    ],
)
def test_what_a_template_may_not_do_is_one_sentence(plain, template):
    with pytest.raises(ConfigError, match=r"The template .* of a task cannot be used \("):
        TaskTemplates(plain).from_string(template).render(**DOCUMENT)
