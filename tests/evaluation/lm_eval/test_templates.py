"""Templates in the sandbox render as lm-eval renders them."""

from pathlib import Path

import lm_eval
import pytest
from jinja2 import BaseLoader, Environment, StrictUndefined
from lm_eval import utils
from lm_tasks import write_task

from evomerge.errors import ConfigError
from evomerge.evaluation.lm_eval.objective import LmEval
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.trust.calls import TaskTemplates, calling

TASKS = Path(lm_eval.__file__).parent / "tasks"
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


@pytest.mark.parametrize("key", ["doc_to_text", "doc_to_target", "gen_prefix", "doc_to_choice"])
def test_a_template_that_may_not_be_used_is_named(tmp_path, key):
    kind = "multiple_choice" if key == "doc_to_choice" else "generate_until"
    rows = [{"q": "a?", "a": "b"}, {"q": "b?", "a": "c"}]
    write_task(tmp_path, "theirs", rows, **{"output_type": kind, key: "{{ cycler.__init__ }}"})
    with pytest.raises(ConfigError, match=r"template '\{\{ cycler.__init__ \}\}' of a task"):
        LmEval(Harness(["theirs"], [tmp_path])).digest("theirs", [0, 1])


def test_lm_evals_own_templates_are_back_behind_the_last_context():
    own = utils.env
    with calling():
        with calling():
            assert isinstance(utils.env, TaskTemplates)
        assert isinstance(utils.env, TaskTemplates)
    assert utils.env is own
