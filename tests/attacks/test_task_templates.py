"""Templates in task YAML from strangers: those that loop for ever or fill the memory."""

import json
import re
import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from evomerge.evaluation.inference.limits import RefusedError, limited

from evomerge.errors import ConfigError
from evomerge.evaluation.tasks import templates
from evomerge.evaluation.tasks.harness import Harness

LATE = r"it does not end within 0\.2 s"
MEMORY = f"(memory runs out|{LATE})"  # a slow machine comes to the limit of time first
ROUNDS = "{% for a in range(99999) %}"
NASTY = {
    "loops": (f"{ROUNDS}{ROUNDS}{{% endfor %}}{{% endfor %}}", LATE),
    "loops over one document": (
        f"{{% if q == 'b?' %}}{ROUNDS}{ROUNDS}{{% endfor %}}{{% endfor %}}{{% endif %}}{{{{ q }}}}",
        LATE,
    ),
    "a constant power": ("{{ 9 ** (9 ** 9) }}", LATE),
    "a power": ("{{ n ** (n ** n) }}", LATE),
    "squares": (
        "{% set s = namespace(x=n) %}{% for a in range(60) %}{% set s.x = s.x * s.x %}{% endfor %}",
        LATE,
    ),
    "a regular expression": ("{{ (q * 40 ~ '!') | regex_replace('([ab?]+)+$', '') }}", LATE),
    "words without end": ("{{ lipsum(10 ** 9) }}", LATE),
    "a wrapped text": ("{{ ('ab ' * 10 ** 6) | wordwrap(1, wrapstring='x' * 10 ** 6) }}", LATE),
    "a constant text": ("{{ 'a' * 10 ** 10 }}", MEMORY),
    "a text": ("{{ q * 10 ** 10 }}", MEMORY),
    "a list": ("{{ [q] * 10 ** 10 }}", MEMORY),
    "a width": ("{{ '%9999999999d' % n }}", MEMORY),
    "another width": ("{{ '{:9999999999}'.format(n) }}", MEMORY),
    "a centred text": ("{{ q | center(10 ** 10) }}", MEMORY),
    "an indented text": ("{{ (q ~ '\n' ~ q) | indent(10 ** 10) }}", MEMORY),
    "an indented list": ("{{ [[0]] | tojson(indent=10 ** 10) }}", MEMORY),
    "replaced letters": ("{{ q.replace('', 'x' * 10 ** 10) }}", MEMORY),
    "doubles": (
        "{% set s = namespace(x=q) %}{% for a in range(60) %}{% set s.x = s.x ~ s.x %}{% endfor %}",
        f"({MEMORY}|{LATE})",
    ),
    "calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: .+"),
    "is nested": (f"{{{{ {9000 * '('}1{9000 * ')'} }}}}", "RecursionError: .+"),
    "is long": ("{{ q * 15000000 }}", "it makes a text of 30000000 characters"),
    "misses a value": ("{{ x }}", "UndefinedError: 'x' is undefined"),
    "is no template": ("{{", "TemplateSyntaxError: .+"),
}
CHOICES = f"[{{{{ '1,' * {templates.LONGEST_LIST} }}}}]"


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(templates, "SECONDS", 0.2)


def harness_of(folder: Path, **keys) -> Harness:
    rows = [{"q": "a?", "a": "b", "n": 9}, {"q": "b?", "a": "c", "n": 9}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "theirs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "q",
        "doc_to_target": "a",
        **keys,
    }
    (folder / "theirs.yaml").write_text(json.dumps(task))
    return Harness(["theirs"], [folder])


@pytest.mark.parametrize("kind", NASTY)
def test_a_nasty_template_is_one_sentence(tmp_path, kind):
    template, reason = NASTY[kind]
    with pytest.raises(ConfigError) as caught:
        harness_of(tmp_path, doc_to_text=template).digests("theirs", [0, 1])
    said = rf"`doc_to_text` of task 'theirs' cannot be used \({reason}\); change the template in .+"
    assert re.fullmatch(said, str(caught.value))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000
    assert resource.getrlimit(resource.RLIMIT_DATA)[0] == resource.RLIM_INFINITY
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL


@pytest.mark.parametrize(
    ("key", "template", "others"),
    [
        ("doc_to_target", NASTY["loops"][0], {}),
        ("doc_to_target", CHOICES, {}),
        ("doc_to_choice", NASTY["a text"][0], {"output_type": "multiple_choice"}),
        ("doc_to_choice", CHOICES, {"output_type": "multiple_choice"}),
        ("gen_prefix", NASTY["loops"][0], {}),
    ],
)
def test_the_key_with_the_template_is_named(tmp_path, key, template, others):
    with pytest.raises(ConfigError, match=f"`{key}` of task 'theirs' cannot be used"):
        harness_of(tmp_path, **{key: template}, **others).digests("theirs", [0, 1])


def test_a_signal_that_comes_while_the_timer_is_stopped_leaves_no_handler(monkeypatch):
    stop = signal.setitimer

    def late(kind, seconds):
        if not seconds:
            signal.raise_signal(signal.SIGVTALRM)
        return stop(kind, seconds)

    monkeypatch.setattr(signal, "setitimer", late)
    with pytest.raises(RefusedError):
        limited(lambda: "text", 10)
    assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL
    stop(signal.ITIMER_VIRTUAL, 0)


def test_a_loop_is_ended_in_a_thread_too(tmp_path):
    harness = harness_of(tmp_path, doc_to_text=NASTY["loops over one document"][0])
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(harness.digests, "theirs", [0, 1]).exception()
    assert isinstance(error, ConfigError) and re.search(LATE, str(error))


def test_a_timer_of_somebody_else_goes_on():
    sent = []
    before = signal.signal(signal.SIGVTALRM, lambda *_: sent.append("theirs"))
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0.3, 7.0)
        assert limited(lambda: sum(range(10**6)), 10)
        left, interval = signal.getitimer(signal.ITIMER_VIRTUAL)
        assert 0 < left < 0.3 and interval == pytest.approx(7.0) and not sent
        with pytest.raises(RefusedError):
            limited(lambda: sum(0 for _ in iter(int, 1)), 0.4)
        while not sent:
            pass
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


TRACED = """
import faulthandler, sys, threading
from evomerge.evaluation.inference.limits import RefusedError, limited

def render(work):
    try:
        limited(work, 0.2)
    except RefusedError as error:
        print(error)

thread = threading.Thread(target=render, args=[eval(sys.argv[1])])
thread.start()
thread.join()
faulthandler.dump_traceback_later(60, exit=True)
sys.settrace(lambda *_: None)
render(lambda: None)
print("traced")
"""


@pytest.mark.parametrize(
    ("work", "said"),
    [
        ("lambda: 'text'", ""),
        ("lambda: sum(0 for _ in iter(int, 1))", "it does not end within 0.2 s\n"),
    ],
    ids=["in time", "late"],
)
def test_after_a_template_in_a_thread_functions_can_be_traced(work, said):
    """Coverage, debuggers and Hypothesis trace functions."""
    done = subprocess.run([sys.executable, "-c", TRACED, work], capture_output=True, text=True)
    assert done.stdout == f"{said}traced\n", done.stderr


def test_a_long_document_is_no_attack(tmp_path):
    harness = harness_of(tmp_path, doc_to_text="{{ (q * 2000000) | upper }}")
    assert harness.digests("theirs", [0, 1])
