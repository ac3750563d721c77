"""Names from files at the five borders: terminal, HTML, pictures, model card, trackers.

What a run shows must have the same structure whatever its names are: the same lines and columns,
the same elements and attributes, the same tables. A name only changes the text.
"""

import contextlib
import csv
import io
import itertools
import json
import logging
import re
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest
from draws import FUZZ, draws
from huggingface_hub import ModelCard
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console
from run_folders import asked, browsed, needs_browser, scores, told, write_run

from evomerge.__main__ import main
from evomerge.__main__ import run as call
from evomerge.api.followers import tracked
from evomerge.cli import live, terminal
from evomerge.errors import EvomergeError, without_controls
from evomerge.export.card import Merge, Parent, search_card
from evomerge.recipe import Layer, Recipe, Source
from evomerge.report.page import page, write_page
from evomerge.report.pictures import svg_text
from evomerge.report.view import View
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.ranking import ranking_of
from evomerge.scores import Example, Failure, Scores
from evomerge.words import storable

pytestmark = pytest.mark.thorough

PIECES = [
    *("<img src=x onerror=document.title='run'>", "<script>document.title='run'</script>"),
    *("</td></table>", "-->", "]]>", "&lt;", '" onload="document.title=1', "' x='"),
    *("[/bold]", "[red]", "[link=http://a.b]", ":smile:", "\x1b[2J", "\x1b]0;t\x07", "\x9b31m"),
    *("\u202etxt", "\u2066", "\u200f", "\x00", "\x7f", "\r", "\n", "\t", "\u2028"),
    *("$\\frac{$", "$", "\\", "$x^{$", "|", "`", "```", "**b**", "[a](http://b.c)", "![a](b)"),
    *("\n---\n", "\n# head\n", "www.a.com", "=cmd()", ",", ";", "a", "é", "模型", " "),
]
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
names = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
EVERYTHING = "".join(PIECES)


def run_with(name: str, folder: Path) -> RunFolder:
    """A finished run in which everything that a file can name has this name, and a letter."""
    parent, other, task, metric = f"{name}p", f"{name}o", f"{name}t", f"{name}m"
    layer = Layer("linear", (Source(parent, 0, {"weight": 0.5}), Source(other, 0, {"weight": 0.5})))
    plain = Layer("linear", (Source(parent, knobs={"weight": 1.0}),))
    recipe = Recipe(parent, {"model.layers": (layer,)}, plain, plain, dtype="float32")

    def outcome(right: int) -> Scores:
        found, key = scores(right), f"{task}/{metric}"
        example = Example(task, 0, name, name, f"{name}x", name, {metric: 1.0})
        (values,), (value,) = found.values.values(), found.aggregates.values()
        return Scores({task: tuple(range(24))}, {key: values}, {key: value}, examples=(example,))

    best = asked(3, genome=[0.75, 0.5]) | {"digest": recipe.digest}
    events = [
        *(asked(0, parent), told(0, outcome(6)), asked(1, other), told(1, outcome(3))),
        *(asked(2, genome=[0.25, 1.5]), told(2, Failure("merge", f"{name}r"))),
        *(best, told(3, outcome(20)), asked(4, genome=[1.75, 0.5]), told(4, outcome(5))),
        *(told(n, outcome(n + 9)) | {"event": "score", "split": "test"} for n in (0, 1, 3)),
        {"event": "winner", "candidate": 3},
    ]
    frozen = {
        "genes": [f"{name}.weight", f"layers[0:2].{parent}.weight"], "versions": {name: name},
        "parents": {parent: "0" * 64, other: "1" * 64}, "sources": {"test": {task: name}},
    }  # fmt: skip
    about = {"base": parent, "objectives": [{"task": task, "metric": metric}], "frozen": frozen}
    run = write_run(folder, events, parents=[parent, other], **about)
    run.write("best.yaml", recipe.to_yaml())
    return run


@contextlib.contextmanager
def some_run(name):
    with tempfile.TemporaryDirectory() as folder:
        yield run_with(name, Path(folder) / "run")


@pytest.fixture(scope="module")
def harmless(tmp_path_factory):
    return run_with("word", tmp_path_factory.mktemp("harmless") / "run")


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    return run_with(EVERYTHING, tmp_path_factory.mktemp("nasty") / "run")


DRAWN = {
    *("defs", "style", "g", "path", "use", "text", "tspan", "clippath", "rect", "image"),
    *("metadata", "rdf:rdf", "cc:work", "dc:type", "dc:format", "dc:creator", "cc:agent"),
    "dc:title",
}


class Elements(HTMLParser):
    """All tags with the names of their attributes, in their order, but not those of pictures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, ...]] = []
        self.svg = 0
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        if self.svg:  # how many paths a picture has depends on the width of the letters
            assert tag in DRAWN and not [name for name in names if name.startswith("on")]
        else:
            self.found.append((tag, *names))
        self.svg += tag == "svg"

    def handle_endtag(self, tag):
        self.svg -= tag == "svg"
        self.found += [] if self.svg else [(f"/{tag}",)]


def test_the_report_has_the_elements_that_it_has_with_harmless_names(harmless, nasty):
    text = page(nasty)
    assert not CONTROLS.search(text)
    assert Elements(text).found == Elements(page(harmless)).found
    assert "&lt;img src=x onerror=" in text and "[/bold]" in text and r"$\frac{$" in text


@needs_browser
def test_no_script_runs_in_a_browser(nasty, tmp_path):
    write_page(nasty, tmp_path / "report.html")
    done = browsed(tmp_path / "report.html")
    assert "<title>run</title>" in done.stdout  # the name of the folder; a script would set it too
    assert "onerror=&quot;" not in done.stdout and not re.search("<(img|script)", done.stdout)


def test_pictures_are_well_formed_and_show_the_names(nasty):
    figures = View.of(nasty).figures.values()
    assert len(figures) >= 3
    shown = ["".join(ElementTree.fromstring(svg_text(item)).itertext()) for item in figures]
    assert any("<img src=x onerror" in text for text in shown)
    assert not any(CONTROLS.search(text) for text in shown)


@contextlib.contextmanager
def console(is_terminal):
    """Both consoles of the commands, written to a text; yields a function that returns it."""
    written = io.StringIO()
    fake = Console(
        file=written, force_terminal=is_terminal, width=120, soft_wrap=True,
        color_system="standard", markup=False, emoji=False, highlight=False,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(written):
        for module, name in itertools.product((terminal, live), ("out", "err")):
            patch.setattr(module, name, fake, raising=False)
        yield written.getvalue


def shown(run: RunFolder, *, is_terminal: bool) -> list[str]:
    """What each of some commands shows."""
    found = []
    for name in ("results", "status"):
        with console(is_terminal) as text:
            assert call([name, str(run.path)]) == 0
            found.append(text())
    return found


def columns(table: str) -> list[int]:
    """The number of tabs of each line of a table."""
    return [line.count("\t") for line in table.split("\n") if "\t" in line]


def card(name: str, run: RunFolder) -> ModelCard:
    """The card of the winner, whose parents and licence have this name."""
    record, history, view = run.record(), History(run.events()), View.of(run)
    assert view.recipe is not None and view.best is not None
    keys = {"license": f"{name}l", "license_name": f"{name}n", "license_link": f"{name}k"}
    parents = {item: Parent(item, "org/name", (keys,)) for item in view.recipe.parents}
    merge = Merge(view.recipe, parents, mergekit=False, task="text-generation")
    texts = search_card(merge, record, history, view.best, view.ranking)
    ElementTree.fromstring(texts["recipe.svg"])
    return ModelCard(texts["README.md"])


BOLD = {"strong_open", "strong_close"}  # of our own sentences


def tokens(markdown: str) -> tuple[list[str], str]:
    """The kinds of blocks and of emphasis in a Markdown text, and what can be read of it."""
    found = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    blocks = found.parse(markdown)
    lines = [child for token in blocks for child in token.children or ()]
    assert {child.type for child in lines} <= {"text", "code_inline", "image", "softbreak"} | BOLD
    assert [c.attrs["src"] for c in lines if c.type == "image"] == ["recipe.svg"]
    kinds = [token.type for token in blocks] + [c.type for c in lines if c.type in BOLD]
    return kinds, "\n".join(child.content for child in lines)


def check_card(name: str, run: RunFolder, harmless: RunFolder) -> str:
    """Compare a card with one of harmless names; a task that has a colon is a function."""
    found = card(name, run)
    with contextlib.nullcontext(harmless) if ":" not in name else some_run("wo:rd") as other:
        expected = card("wo:rd" if ":" in name else "word", other)
    kinds, text = tokens(found.text)
    assert kinds == tokens(expected.text)[0]
    data = found.data.to_dict()
    assert list(data) == list(expected.data.to_dict())
    told, given = (without_controls(item) for item in (data["license_name"], f"{name}n"))
    assert told == given or "\u2028" in name  # YAML indents what follows a line separator
    assert not CONTROLS.search(found.content)
    return text


@settings(FUZZ, max_examples=draws(6))
@given(name=names)
@example(name=EVERYTHING)
def test_any_names_leave_lines_columns_blocks_and_values_as_they_are(harmless, name):
    with some_run(name) as run, contextlib.redirect_stderr(io.StringIO()):
        pairs = [shown(item, is_terminal=False) for item in (run, harmless)]
        for table, other in zip(*pairs, strict=True):
            assert not CONTROLS.search(table)
            assert columns(table) == columns(other)
        for text in shown(run, is_terminal=True):
            assert not CONTROLS.search(COLOURS.sub("", text))
            assert "link=" not in text or "[link=" in name
        check_card(name, run, harmless)
        file = run.path / "rows.csv"
        assert call(["results", str(run.path), "--csv", str(file)]) == 0
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        with console(False) as text:
            assert call(["results", str(run.path), "--json"]) == 0
        assert not CONTROLS.search(text())
        found = json.loads(text())["candidates"]
        assert [row["origin"] for row in found[:2]] == [f"{name}p", f"{name}o"]
        for row, letter in zip(rows, "po", strict=False):  # no cell is a formula
            origin = without_controls(f"{name}{letter}")
            assert row["origin"] in (origin, f"'{origin}")
            assert not row["origin"].startswith(("=", "+", "-", "@"))
    assert without_controls(f"test {name}t/{name}m") in rows[0] and len(rows) == 5


MARKUP = "[/bold][red][link=a]:smile:"


def test_markup_is_shown_as_it_is(nasty):
    for real in (terminal.out, terminal.err):
        with real.capture() as captured:
            real.print("[red]a[/red] :smile: 1")
        assert captured.get() == "[red]a[/red] :smile: 1\n"
    with some_run(MARKUP) as run:
        assert all(MARKUP in text for text in shown(run, is_terminal=True))
    ranking, history = ranking_of(nasty.record()), History()
    with console(True) as text:
        display = live.SearchDisplay(None, ranking)
        for event in nasty.events():
            history.apply(event)
            display.observe(history, event)
    assert "<script>" in text() and not CONTROLS.search(COLOURS.sub("", text()))


class Strict:
    """A tracker that takes only what every one can store, and then fails."""

    name = "a run"

    def init(self, config, name, **options):
        self.check(config, name)
        return self

    def check(self, *values):
        def mapping(pairs):
            assert all(key.isprintable() and len(key) <= 501 for key, _ in pairs)

        json.loads(json.dumps(values, ensure_ascii=False).encode(), object_pairs_hook=mapping)

    def log(self, metrics):
        assert metrics["winner"] == 3
        self.check(metrics)

    def finish(self):
        raise SystemExit("\x1b[2J[/x]")


@pytest.mark.parametrize("name", [EVERYTHING, "x" * 20_000])
def test_a_tracker_gets_texts_that_can_be_stored(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run, said = run_with(name, tmp_path / "run"), []
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "trackio", Strict())
        with tracked("trackio", run, ranking_of(run.record()), said.append):
            pass
    assert said == [
        "logging to trackio, project evomerge, run run",
        "warning: trackio failed ( [2J[/x]); the search goes on without it.",
    ]
    pytest.importorskip("trackio")
    said.clear()
    with tracked("trackio", run, ranking_of(run.record()), said.append):
        pass
    assert len(said) == 1 and said[0].startswith("logging to trackio")


def test_half_a_letter_is_replaced_inside_of_everything():
    """Files with one are refused when they are read; results of objective functions are not."""
    assert storable({"a\ud800": ["b\ud800", {"c": 1.5, "d": None}]}) == {
        "a?": ["b\N{REPLACEMENT CHARACTER}", {"c": 1.5, "d": None}]
    }


def test_log_messages_have_no_control_sequences(harmless, monkeypatch):
    # pytest's own handler would keep the message, and its processes cannot send a lone surrogate
    monkeypatch.setattr(logging.getLogger("evomerge"), "propagate", False)
    with harmless.logged():
        logging.getLogger("evomerge.test").warning("of %s", "\x1b[2J\u202e\udc80\x9b")
    assert "of \ufffd[2J\ufffd\ufffd\ufffd\n" in (harmless.path / "log.txt").read_text()


@given(sentence=st.text(max_size=3000) | names.map(lambda name: 300 * name))
@settings(FUZZ)
def test_every_error_is_one_line_of_under_a_thousand_characters(sentence):
    text = str(EvomergeError(f"{sentence}; do that."))
    assert len(text) < 1000 and text.splitlines() == [text] and text.isprintable()
    assert text.endswith("; do that.")


def test_an_error_that_evomerge_did_not_raise_is_one_short_line(monkeypatch, capsys):
    def fail(arguments):
        raise RuntimeError("\x1b[2J" + 5000 * "x\u202e\n")

    monkeypatch.setattr("evomerge.__main__.run", fail)
    monkeypatch.setattr("sys.argv", ["evomerge", "status"])
    with pytest.raises(SystemExit):
        main()
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 1000 and said.strip().isprintable()
