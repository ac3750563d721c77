"""The commands of the documentation, and how a test runs or checks one of each program.

A function of `PROGRAMS` gets the words of a command and returns what it prints; an error says that
the command is wrong.
"""

import io
import os
import re
import runpy
import shlex
import shutil
import tomllib
from collections.abc import Callable, Iterator
from contextlib import nullcontext, redirect_stderr, redirect_stdout
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

from page_stand_ins import SEARCH, small_searches
from pages import ROOT
from typer.main import get_command

from evomerge.__main__ import run
from evomerge.cli.commands import app
from evomerge.config.schema import override, parse

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()
EVOMERGE = get_command(app)
COMMANDS = EVOMERGE.commands

NOT_RUN = ("push",)
"""Commands of evomerge whose words are only parsed: they need the Hub."""

WHOLE = ("validate", "init", "list", "schema")
"""Commands of evomerge that print with a small budget what they print with the whole one."""


def evomerge(words: list[str]) -> str:
    """Run a command of evomerge in this process. Searches have few candidates and documents."""
    if words and words[0] in NOT_RUN:
        check_options(words)
        COMMANDS[words[0]].make_context(words[0], words[1:])
        return ""
    if words[:1] in (["search"], ["resume"]):
        words = _in_this_process(words)
    if words[:1] == ["search"]:
        words = _searched_once(words)
    whole = not words or (words[0] in WHOLE and "--time" not in words)  # which scores candidates
    if words[:1] == ["resume"] and "--patience" in words:
        words += ["--candidates", "6"]  # the few candidates of a page's search are spent
    printed, said = io.StringIO(), io.StringIO()
    with (
        redirect_stdout(printed),
        redirect_stderr(said),
        nullcontext() if whole else small_searches(),
    ):
        code = run(words)
    assert code == 0, f"exit code {code}: {said.getvalue()}"
    return printed.getvalue()


def _in_this_process(words: list[str]) -> list[str]:
    """Check settings of the executor, and leave them out."""
    kept = words[:1]
    for before, word in pairwise(words):
        if before == "--set" and word.startswith("executor."):
            kept.pop()
            override(data := deepcopy(SEARCH) | {"executor": {"kind": "processes"}}, word)
            parse(data, word)
        else:
            kept.append(word)
    return kept


SEARCHED: dict[Path, str] = {}
"""Search file of a page -> the run of the first search of it."""


def _searched_once(words: list[str]) -> list[str]:
    """Make of a search that repeats another with other settings its validation and a copied run."""
    _, file, option, run, *settings = words
    earlier = SEARCHED.setdefault(Path(file).resolve(), run)
    if earlier == run or option != "--run" or not {*settings[::2]} <= {"--set"}:
        return words
    shutil.copytree(earlier, run)
    return ["validate", file, *settings]


def check_options(words: list[str]) -> str:
    """Check that a command of evomerge and its options exist; a text may leave out the rest."""
    if not words or words[0] in ("--help", *(o for item in EVOMERGE.params for o in item.opts)):
        return ""
    assert words[0] in COMMANDS, f"evomerge has no command {words[0]!r}"
    known = {"--help", "--debug"}.union(
        *([*item.opts, *item.secondary_opts] for item in COMMANDS[words[0]].params)
    )
    for word in words[1:]:
        option = word.partition("=")[0]
        assert not option.startswith("--") or option in known, (
            f"`evomerge {words[0]}` has no option {option}"
        )
    return ""


def make(words: list[str]) -> str:
    """Check that targets and variables are in the Makefile."""
    for word in words:
        name, assigned, _ = word.partition("=")
        after = r" ?\??=" if assigned else ":"
        assert re.search(rf"^{name}{after}", MAKEFILE, re.MULTILINE), (
            f"the Makefile has no {name!r}"
        )
    return ""


def pip(words: list[str]) -> str:
    """Check that what is installed is this package, with extras that it has, or one it needs.

    The package of a page is installed: its entry points are.
    """
    assert words[0] == "install", f"unknown: pip {words[0]}"
    own = Path("pyproject.toml").read_text() if Path("pyproject.toml").is_file() else ""
    project = tomllib.loads(own).get("project", {})
    if words[1:] == ["-e", "."] and "entry-points" in project:
        about = Path(f"{project['name'].replace('-', '_')}-{project['version']}.dist-info")
        about.mkdir()
        groups = project["entry-points"].items()
        lines = [f"[{group}]\n{k} = {v}\n" for group, of in groups for k, v in of.items()]
        (about / "entry_points.txt").write_text("".join(lines))
        return ""
    needed = {re.match(r"[\w-]+", item)[0] for item in PROJECT["dependencies"]}
    values = {"--index-url", "--extra-index-url"}
    named = [
        word
        for before, word in pairwise(words)
        if not word.startswith("-") and before not in values
    ]
    for word in named:
        name, _, extras = word.rstrip("]").partition("[")
        assert name in {".", PROJECT["name"], *needed}, f"is {word!r} what people need?"
        for extra in filter(None, extras.split(",")):
            assert extra in PROJECT["optional-dependencies"], f"there is no extra {extra!r}"
    return ""


def python(words: list[str]) -> str:
    """Run a file that a page shows; of a script or module of the repository check the options."""
    if words[:1] == ["-c"]:
        return _printed_by(lambda: exec(words[1], {"__name__": "__main__"}))
    if words[:2] in (["-m", "pip"], ["-m", "venv"]):
        return pip(words[2:]) if words[1] == "pip" else ""
    if words[:2] == ["-m", "pytest"]:
        missing = [word for word in words[2:] if not (ROOT / word.partition("::")[0]).exists()]
        assert not missing, f"{missing} do not exist"
        return ""
    name, arguments = words[0], words[1:]
    if name == "-m":
        name, arguments = f"{words[1].replace('.', '/')}.py", words[2:]
        if not (ROOT / name).is_file():
            name = name.replace(".py", "/__main__.py")
    if Path(name).is_file() and not (ROOT / name).is_file():
        return _printed_by(lambda: runpy.run_path(name, run_name="__main__"))
    assert (ROOT / name).is_file(), f"{name} does not exist"
    files = [ROOT / name, *(ROOT / name).parent.glob("*/*.py")]  # a script, and its package
    text = "".join(path.read_text() for path in files)
    for word in arguments:
        assert not word.startswith("--") or f'"{word}"' in text, f"{name} has no {word}"
    return ""


def _printed_by(action: Callable[[], object]) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed), small_searches():
        action()
    return printed.getvalue()


def lm_eval(words: list[str]) -> str:
    """Check that lm-eval has the options."""
    from lm_eval.__main__ import HarnessCLI

    parser = HarnessCLI()._subparsers.choices["run"]
    for word in words:
        option = word.partition("=")[0]
        assert not option.startswith("-") or option in parser._option_string_actions, (
            f"lm_eval has no option {option}"
        )
    return ""


PROGRAMS: dict[str, Callable[[list[str]], str]] = {
    "evomerge": evomerge,  # runs
    "make": make,  # the targets exist
    "pip": pip,  # the extras exist
    "python": python,  # what a page shows runs; of the repository's scripts the options exist
    ".venv/bin/python": python,
    "lm_eval": lm_eval,  # the options exist
}
"""Program -> what a test does with a command of it. A program that is not here is an error."""

IN_A_TEXT: dict[str, Callable[[list[str]], object]] = {
    **{name: PROGRAMS[name] for name in ("make", "python", ".venv/bin/python")},
    "evomerge": check_options,
    "lm_eval": lm_eval,
    "pip": lambda words: words[1:] and pip(words),
}
"""Program -> how a command in a text is checked, which may leave out what a block has."""

_LOOP = re.compile(r"for (\w+) in ([^;\n]+); do\s(.*?)\bdone\b", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_]+=.*")


def commands_of(text: str) -> Iterator[list[str]]:
    """Yield the commands of a block of shell, split into words."""
    text = _LOOP.sub(_unrolled, text.replace("\\\n", " "))
    yield from filter(None, (shlex.split(line, comments=True) for line in text.splitlines()))


def _unrolled(loop: re.Match[str]) -> str:
    """Return the commands of a loop one after the other."""
    name, values, body = loop.groups()
    return "\n".join(body.replace(f"${name}", value) for value in values.split())


def execute(command: list[str]) -> str:
    """Run or check one command of a block; return what it prints."""
    words = [_substituted(word) for word in command]
    while _ASSIGNMENT.fullmatch(words[0]):
        os.environ.update([words.pop(0).split("=", 1)])  # the test removes it after the page
    assert words[0] in PROGRAMS, (
        f"unknown program {words[0]!r}; say in tests/docs/pages/page_commands.py how it is checked"
    )
    return PROGRAMS[words[0]](words[1:])


def _substituted(word: str) -> str:
    """Return what a command in `$(...)` prints, or a word that is no such command."""
    inner = re.fullmatch(r"\$\((.*)\)", word)
    return execute(next(commands_of(inner[1]))).strip() if inner else word


def inline(text: str) -> list[str]:
    """Check a command in a text, where FILE or N may stand for anything; return its words."""
    try:
        words = shlex.split(text)
    except ValueError:  # an apostrophe: this is no command
        return []
    named = [word for word in words if not _ASSIGNMENT.fullmatch(word)]
    if named and named[0] in IN_A_TEXT:
        IN_A_TEXT[named[0]](named[1:])
    return words
