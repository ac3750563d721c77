"""Templates of strangers take no memory and time without end; others render as without limits."""

import os
import resource
from pathlib import Path

import pytest
from lm_eval import utils
from transformers.utils import chat_template_utils

import evomerge
from evomerge.trust import template_sizes
from evomerge.trust.calls import TaskTemplates
from evomerge.trust.templates import TemplateLimitError, limited_chat_templates

BIG = "{% set b = 'x' * 9999999 %}"
DEEP = """{% set ns = namespace(l=['xxxxxxxxxxxx']) %}
{% for a in range(40) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}"""


def grow(start, step):
    """Return a template that computes `ns.x` again and again."""
    steps = f"{{% for a in range(9999) %}}{{% set ns.x = {step} %}}{{% endfor %}}"
    return f"{{% set ns = namespace(x={start}) %}}{steps}"


LARGE = {
    "issue": "{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}",
    "mul": "{{ 'x' * 10**10 }}",
    "mul list": "{{ ([0] * 10**9)|length }}",
    "pow2": grow("2", "ns.x * ns.x"),
    "percent": "{{ '%9999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (9999999999, 1) }}",
    "percent many": BIG + "{{ ('%(a)s' * 10000) % {'a': b} }}",
    "format": "{{ '{:9999999999}'.format(1) }}",
    "format nested": "{{ '{:{}}'.format(1, 9999999999) }}",
    "format nested str": "{{ '{:{}}'.format(1, '9999999999') }}",
    "format prec": "{{ '{:.9999999999f}'.format(1.5) }}",
    "format many": BIG + "{{ ('{0}' * 100000).format(b) }}",
    "format_map": BIG + "{{ ('{a}' * 100000).format_map({'a': b}) }}",
    "format filter": "{{ '%9999999999d' | format(1) }}",
    "center": "{{ 'x' | center(10**10) }}",
    "center m": "{{ 'x'.center(10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "zfill": "{{ 'x'.zfill(width=10**10) if 0 else 'x'.zfill(10**10) }}",
    "expandtabs": "{{ ('\t' * 100000).expandtabs(100000) }}",
    "indent": "{{ ('\n' * 100000) | indent(100000, blank=true) }}",
    "indent text": BIG + "{{ ('a\n' * 100000) | indent(b) }}",
    "join": BIG + "{{ range(99999) | join(b) }}",
    "join m": BIG + "{{ b.join('x' * 99999) }}",
    "join m list": BIG + "{{ b.join(['x'] * 99999) }}",
    "join elements": BIG + "{{ ([b] * 99999) | join }}",
    "replace": BIG + "{{ ('x' * 99999) | replace('x', b) }}",
    "replace m": BIG + "{{ ('x' * 99999).replace('', b) }}",
    "translate": BIG + "{{ ('x' * 99999).translate({120: b}) }}",
    "tojson": "{{ range(9999)|list | tojson(indent=10**9) }}",
    "doubling +": grow("'xxxx'", "ns.x + ns.x"),
    "doubling ~": grow("'xxxx'", "ns.x ~ ns.x"),
    "doubling list": grow("[1]", "ns.x + ns.x"),
    "keeping slices": BIG + grow("[]", "ns.x + [b[1:]]"),
    "keeping upper": BIG + grow("[]", "ns.x + [b.upper()]"),
    "macro": """{% macro m() %}{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}
{% endmacro %}{{ m() }}""",
    "join m lazily": BIG + "{{ b.join(range(99999)|map('string')) }}",
    "tojson small": "{{ [[1]]|tojson(indent=10**9) }}",
    "macro data": "{% macro m() %}{% for a in range(99999) %}"
    + "x" * 10000
    + "{% endfor %}{% endmacro %}{{ m() }}",
    "set block": "{% set x %}{% for a in range(99999) %}"
    + "x" * 10000
    + "{% endfor %}{% endset %}",
    "data": "{% for a in range(99999) %}" + "x" * 10000 + "{% endfor %}",
    "batch": "{{ [1]|batch(10**10, 0)|list|length }}",
    "slice": "{{ [1]|slice(10**9)|list|length }}",
    "to_bytes": "{{ (1).to_bytes(10**10, 'big')|length }}",
    "round": "{{ 1.5|round(10**9) }}",
    "split": "{{ ('あ ' * 4999999).split()|length }}",
    "list": "{{ ('あ' * 9999999)|list|length }}",
    "map center": "{{ range(99999)|map('center', 9999999)|list|length }}",
    "map join": BIG + "{{ range(9999)|map('replace', '1', b)|list|length }}",
    "wordwrap": BIG + "{{ ('x' * 99999)|wordwrap(1, wrapstring=b) }}",
    "urlize": BIG + "{{ ('a.com ' * 9999)|urlize(target=b) }}",
    "groups": "{{ ('a' * 9999999)|groupby('x')|list|length }}",
    "literal lists": grow("[]", f"ns.x + [[{'1,' * 10000}]]"),
    "long": "{{a}}" * 99999,
    "listing str": "{{ ('xy' * 4999999)|list|length }}",
    "wide": "{{ ('😀' * 9999999)|length }}",
    "keep wide": grow("[]", "ns.x + ['😀' * (999990 + a)]"),
    "attr": "{{ ('x'|attr('center'))(10**10) }}",
    "get": "{{ 'x'['center'](10**10) }}",
    "map undefined": "{{ ([0] * 30000000)|map(attribute=1)|list|length }}",
    "map undefined str": BIG + "{{ b|map(attribute=1)|list|length }}",
    "select": BIG + "{{ (b + b)|select|list|length }}",
    "nested lists": grow("[]", "ns.x + [range(1000)|list]"),
}
LARGE_IN_PARTS = {
    "dag": DEEP + "{{ ns.l }}",
    "dag concat": DEEP + "{{ (ns.l ~ 'a')|length }}",
    "dag format": DEEP + "{{ '{}'.format(ns.l)|length }}",
    "dag sort": DEEP + "{{ [ns.l, ns.l]|sort|length }}",
    "dag equal": DEEP + DEEP.replace("ns", "other") + "{{ ns.l == other.l }}",
    "dag map": DEEP + "{{ ns.l|map('string')|join|length }}",
    "sum": "{{ ([[0] * 99999] * 99999)|sum(start=[])|length }}",
    "group list": "{{ ([0] * 300000)|groupby(1)|list|length }}",
    "sort list": "{{ ([0] * 300000)|sort(attribute=1)|list|length }}",
}
"""To add up their parts takes seconds up to the limit, so there it is lower."""
LARGE_FOR_TASKS = {
    "extend": "{% set l = [1] %}{% for a in range(60) %}{% set _ = l.extend(l) %}{% endfor %}",
    "regex": "{{ ('x' * 9999)|regex_replace('', 'y' * 999999) }}",
    "regex groups": "{{ ('x' * 99999)|regex_replace('(?=(.*))', '\\\\1') }}",
}
ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "of a list": """{% set l = range(9999)|list %}
{% for a in l %}{% for b in l %}{% for c in l %}{% endfor %}{% endfor %}{% endfor %}""",
    "macros": """{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}
{{ m(60) }}""",
    "recursion": """{% for a in [1, 2] recursive %}
{% if loop.depth < 60 %}{{ loop([1, 2]) }}{% endif %}{% endfor %}""",
}

CHAT = [
    {"role": "system", "content": " You are short.\n"},
    *(
        {"role": role, "content": f"{role} says <b>h\u00e9llo</b> {number} \n"}
        for number in range(5)
        for role in ("user", "assistant")
    ),
    {"role": "user", "content": "Why?"},
]


def render_chat(template, **more):
    options = {"bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True, **more}
    rendered = chat_template_utils.render_jinja_template([CHAT], chat_template=template, **options)
    return rendered[0][0]


def render_as_chat(template):
    with limited_chat_templates():
        return render_chat(template)


def render_as_task(template):
    limited = TaskTemplates(utils.env)
    return limited._compiled(template).render(question="Why?", number=3, options=["a", "b"])


def outcome(render, template):
    """Return how rendering ends in a process that may take 4 times the limit more, and a minute."""
    read, write = os.pipe()
    if not (process := os.fork()):
        try:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            size = pages * resource.getpagesize() + 4 * template_sizes.MOST_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (size, size))
            resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
            try:
                render(template)
                ending = "rendered"
            except BaseException as error:
                ending = type(error).__name__
            os.write(write, ending.encode())
        finally:
            os._exit(0)
    os.close(write)
    os.waitpid(process, 0)
    with os.fdopen(read) as file:
        return file.read()


LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")


@LINUX
@pytest.mark.thorough
@pytest.mark.parametrize("template", LARGE.values(), ids=LARGE)
@pytest.mark.parametrize("render", [render_as_chat, render_as_task])
def test_a_template_that_makes_too_much_is_stopped_before_it_does(render, template):
    assert outcome(render, template) == TemplateLimitError.__name__


@LINUX
@pytest.mark.thorough
@pytest.mark.parametrize("template", LARGE_IN_PARTS.values(), ids=LARGE_IN_PARTS)
@pytest.mark.parametrize("render", [render_as_chat, render_as_task])
def test_so_is_one_that_makes_much_of_many_parts(render, template, monkeypatch):
    monkeypatch.setattr(template_sizes, "MOST_BYTES", 32 << 20)
    assert outcome(render, template) == TemplateLimitError.__name__


@LINUX
@pytest.mark.thorough
@pytest.mark.parametrize("template", LARGE_FOR_TASKS.values(), ids=LARGE_FOR_TASKS)
def test_so_is_a_template_of_a_task(template):
    assert outcome(render_as_task, template) == TemplateLimitError.__name__


@pytest.mark.thorough
@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("render", [render_as_chat, render_as_task])
def test_steps_of_loops_and_macros_count(render, template, monkeypatch):
    monkeypatch.setattr(template_sizes, "MOST_BYTES", 4 << 20)
    with pytest.raises(TemplateLimitError):
        render(template)


OFTEN = """{%- set ns = namespace(n=0, text='') -%}
{% macro show(m) %}{{ m.role|upper ~ ': ' ~ m['content']|trim }}{% endmacro %}
{% for m in messages %}{% generation %}{{ show(m) + '|' * 2 }}{% endgeneration %}
{%- if loop.last %}{{ loop.index0 }}{% break %}{% endif %}{% set ns.n = ns.n + 2 ** 3 %}
{%- set ns.text = ns.text ~ m.content[1:-1].split(' ')|join('_', attribute=0) %}{% endfor %}
{% set block %}{{ ns.text|replace('_', '--') }}{% endset %}{{ block|indent(3) }}
{{ 1 < 2 <= 3 }}{{ 'a' in 'abc' and messages[0] not in [] and {'a': [1]} == {'a': [1]} }}
{{ [1, 2, 'x']|tojson(indent=2) }} {{ {'a': none, 'b': 1.5}|tojson }} {{ messages[-1] }}
{{ '%-5s|%03d' % ('a', 7) }} {{ '9999999999: {:>4}{}'.format('b', ns.n) }}
{{ ', '.join(messages|map(attribute='role')) }} {{ 'c'.center(5) }} {{ missing }}
{{ range(7)|batch(3)|list }} {{ messages|map(attribute='role')|unique|list }}
{{ (messages|selectattr('role', 'equalto', 'user')|first).content|e|wordwrap(9) }}
{%- filter lower %}ABC{{ 7 // 2 }}{% endfilter %}
{{ [3, 1]|sort ~ (1, 2) ~ 'x'.replace('', '-') }}"""

FOLDER = Path(evomerge.__file__).parent / "merging" / "tokenizers" / "chat_templates"
TEMPLATES = {file.stem: file.read_text() for file in FOLDER.glob("*.jinja")} | {"often": OFTEN}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("prompts", [True, False])
def test_a_chat_template_renders_as_without_limits(template, prompts):
    stock = chat_template_utils._compile_jinja_template
    expected = render_chat(template, add_generation_prompt=prompts)
    with limited_chat_templates():
        assert render_chat(template, add_generation_prompt=prompts) == expected
        assert chat_template_utils._compile_jinja_template is not stock
    assert chat_template_utils._compile_jinja_template is stock


def test_a_template_cannot_call_methods_of_images_which_may_write_files(tmp_path):
    image = pytest.importorskip("PIL.Image").new("RGB", (2, 2))
    file = tmp_path / "a.png"
    limited = TaskTemplates(utils.env)._compiled("{{ image.width }}{{ image.save(file) }}")
    with pytest.raises(TemplateLimitError, match=r"method of an object of <class 'PIL\.Image"):
        limited.render(image=image, file=str(file))
    assert not file.exists()
