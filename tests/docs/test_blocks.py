"""Every code block and every command of the documentation is run, or checked as far as possible.

A page is read from top to bottom in one folder, as by a person who does what it says. What a
block is follows from its language (`KINDS`), for YAML also from its keys (`page_yaml`), and what a
command is from its program (`page_commands`). A block or program that is in none of these tables
is an error.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import huggingface_hub
import page_commands
import page_yaml
import pytest
from page_stand_ins import (
    make_what_is_used,
    small_searches,
    stand_in_for_datasets,
    stand_in_for_models,
    write_models,
    write_tasks,
)
from pages import PAGES, ROOT, Block, blocks_of, inline_code_of
from search_run import SMALL

from evomerge.config.schema import SearchConfig, override, parse
from evomerge.errors import ConfigError


class Reader:
    """A person who does what a page says, in the working folder.

    Attributes:
        names: what Python has defined so far.
        printed: what the last block printed, and whether a small budget can have changed it.
        redirected: files that commands have written by `>`.
    """

    def __init__(self) -> None:
        self.names = sys.modules["__main__"].__dict__
        self.printed: tuple[str, bool] | None = None
        self.redirected: set[str] = set()

    def read(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: the block is wrong, or of an unknown kind.
        """
        assert block.language in KINDS, f"unknown language {block.language!r}; see {__name__}"
        if KINDS[block.language] in (Reader.python, Reader.shell, Reader.console):
            make_what_is_used(block.text)
        KINDS[block.language](self, block)

    def python(self, block: Block) -> None:
        """Run Python; names carry over to the next block."""
        self._write(block, ".py")
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, "page", "exec")
        with contextlib.redirect_stdout(printed), small_searches():
            exec(code, self.names)
        self.printed = printed.getvalue(), True

    def yaml(self, block: Block) -> None:
        """Check YAML; what a command has printed into this file must be the same."""
        if block.file in self.redirected:
            assert Path(block.file).read_text() == block.text, f"{block.file} has another content"
            return
        for module, function in re.findall(r"(my_\w+):(\w+)", block.text):
            if function in self.names and not Path(f"{module}.py").exists():
                sys.modules[module] = SimpleNamespace(**self.names)
        name = block.file or f"line-{block.line}.yaml"
        page_yaml.check(block.text, Path(name), shown=block.file is not None)

    def toml(self, block: Block) -> None:
        """Check that the groups of entry points are those that the package asks for."""
        sources = [path.read_text() for path in (ROOT / "evomerge").rglob("*.py")]
        groups = tomllib.loads(block.text)["project"]["entry-points"]
        for group in groups:
            assert any(f'"{group}"' in text for text in sources), f"unknown group {group}"

    def shell(self, block: Block) -> None:
        """Run commands, one after the other."""
        text, whole = "", True
        for command in page_commands.commands_of(block.text):
            try:
                printed, file = page_commands.execute(command)
            except SystemExit as error:
                raise AssertionError(f"`{' '.join(command)}` ends with {error.code}") from error
            except Exception as error:
                raise AssertionError(f"`{' '.join(command)}`: {error}") from error
            self.redirected |= {file} if file else set()
            text += printed
            whole = whole and command[0] == "evomerge" and command[1] in page_commands.WHOLE
        self.printed = text, whole

    def console(self, block: Block) -> None:
        """Run the lines that begin with `$`, and compare what follows each with its output."""
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            self.shell(Block(block.line, "sh", command, None))
            self.output(Block(block.line, "text", shown, None))

    def output(self, block: Block) -> None:
        """Compare output with that of the block before.

        If a small budget or the machine can have changed it, only the first word of each line must
        be there. Where there is no block before, there is nothing to compare with.
        """
        if self.printed is None or not self.printed[0]:
            return
        real, whole = self.printed
        lines = [_measures_aside(line) for line in real.splitlines()]
        for line in block.text.splitlines():
            shown = _measures_aside(line)
            label = re.match(r"[A-Za-z][\w-]*(?= |:|$)", shown)
            if whole and shown:
                pattern = ".*".join(re.escape(part) for part in shown.split("..."))
                assert any(re.fullmatch(pattern, real) for real in lines), (
                    f"{line!r} is not printed, but\n{real}"
                )
            elif label:
                assert re.search(rf"(?<!\w){label[0]}(?!\w)", real), f"{label[0]!r} is not printed"

    def data(self, block: Block) -> None:
        """Write data into the file that the page names."""
        assert block.file, "what is the name of this file?"
        self._write(block, Path(block.file).suffix)

    def _write(self, block: Block, suffix: str) -> None:
        if block.file and block.file.endswith(suffix):
            Path(block.file).parent.mkdir(exist_ok=True)
            Path(block.file).write_text(block.text)


def _measures_aside(line: str) -> str:
    """Return a line of output without its spaces, and without what depends on the machine."""
    measure = r"\d[\d.,]*(?= ([KMG]B|m?s|CPU|seconds?|minutes?)\b)"
    return re.sub(measure, "N", " ".join(line.split()))


KINDS: dict[str, Callable[[Reader, Block], None]] = {
    "python": Reader.python,
    "yaml": Reader.yaml,
    "toml": Reader.toml,
    "": Reader.shell,
    "sh": Reader.shell,
    "bash": Reader.shell,
    "console": Reader.console,
    "text": Reader.output,
    "csv": Reader.data,
    "json": Reader.data,
}
"""Language of a block -> what a reader does with it."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Models that stand in for those of the reader and of the Hub."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be in a folder with the configs and examples of the repository and tasks of the reader."""
    for name in ("configs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    write_tasks(tmp_path / "tasks")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    stand_in_for_models(monkeypatch, models)
    stand_in_for_datasets(monkeypatch)
    environment, modules = dict(os.environ), set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)) or isinstance(
            module, SimpleNamespace
        ):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)


def read(page: str, text: str) -> None:
    """Do what a page says, in the working folder.

    Raises:
        AssertionError: a block is wrong; the message begins with the page and the line.
    """
    reader = Reader()
    for block in blocks_of(text):
        try:
            reader.read(block)
        except Exception as error:
            raise AssertionError(f"{page}:{block.line}: {error}") from error


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks_of(text)])
def test_the_blocks_of_a_page_do_what_it_says(page: str, folder: Path) -> None:
    read(page, PAGES[page])


WRONG = {
    "```rust\n```": "unknown language 'rust'",
    "```\nfrobnicate\n```": "unknown program 'frobnicate'",
    "```\nevomerge list spaces | frobnicate\n```": "unknown program after `|`",
    "```\nevomerge lst\n```": "exit code 2.*lst",
    "```\nevomerge validate no.yaml\n```": "no.yaml does not exist",
    "```\nevomerge push my-model\n```": "Missing parameter: repository",
    "```\nmake all\n```": "the Makefile has no 'all'",
    "```\npip install 'evomerge[no]'\n```": "there is no extra 'no'",
    "```\npython benchmarks/lag.py --no\n```": "lag.py has no --no",
    "```\nsbatch examples/no.sbatch\n```": "examples/no.sbatch does not exist",
    "```yaml\nexecutor: {kind: threads}\n```": "executor.kind",
    "```yaml\nspace: {method: slurp}\n```": "slurp",
    "```yaml\non: push\njobs: {}\n```": "unknown YAML",
    "```toml\n[project.entry-points.'evomerge.no']\n```": "unknown group evomerge.no",
    "```python\nimport evomerge.no\n```": "No module named",
    "```\nevomerge list spaces\n```\n```text\nswamps\n```": "'swamps' is not printed",
    "    evomerge list\n": "put code between fences",
}
"""Text of a page -> what the test says of it."""


@pytest.mark.parametrize(("text", "message"), WRONG.items())
def test_what_is_wrong_is_an_error_with_its_line(text: str, message: str, folder: Path) -> None:
    line = r"(?s)(page:|line )[14]: .*"
    with pytest.raises(AssertionError, match=line + message):
        read("page", text)


SCHEMA = SearchConfig.model_json_schema()
SECTIONS = [name for name, field in SCHEMA["properties"].items() if "$ref" in field]
KEY = rf"(?:{'|'.join(SECTIONS)})(?:\.\w+)+"
SETTING = re.compile(rf"({KEY})(?:=|: )(\S.*)")
PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*\b")


def check_key(path: str) -> None:
    """Check that the schema has a key."""
    place: Any = SCHEMA
    for name in path.split("."):
        options = [place, *place.get("anyOf", ())]
        options += [SCHEMA["$defs"][o["$ref"].rpartition("/")[2]] for o in options if "$ref" in o]
        found = [o["properties"][name] for o in options if name in o.get("properties", {})]
        found += [o["additionalProperties"] for o in options if "additionalProperties" in o]
        found += [o["items"] for o in options if name.isdigit() and "items" in o]
        assert found and found[0] is not False, f"the search file has no key {path}"
        place = found[0]


def check_setting(key: str, value: str) -> None:
    """Check a key and its value; a value such as N may stand for any."""
    check_key(key)
    if PLACEHOLDER.search(value):
        return
    data = deepcopy(SMALL)
    override(data, f"{key}={value}")
    if key.startswith("evaluation.") and key != "evaluation.backend":
        with contextlib.suppress(ConfigError):  # some keys are only for vLLM
            parse(data, "the setting")
            return
        override(data, "evaluation.backend=vllm")
    parse(data, "the setting")


def check_inline(code: str, of_the_page: set[str]) -> None:
    """Check inline code that is a command, a key, a setting or a file of the repository.

    Args:
        code: the code.
        of_the_page: names of files that the page's own blocks show.
    """
    if setting := SETTING.fullmatch(code):
        check_setting(*setting.groups())
    elif re.fullmatch(KEY, code):
        check_key(code)
    elif re.fullmatch(r"[\w*.-]+(/[\w*.-]+)+\.(py|yaml|md|sh|sbatch)", code):
        assert code in of_the_page or any(ROOT.rglob(code)), f"there is no file {code}"
    elif " " in code:
        page_commands.inline(words := page_commands.words_of(code))
        for option, value in pairwise(words):
            if option == "--set":
                check_setting(*value.split("=", 1))


def wrong_in(page: str, text: str) -> list[str]:
    """Return a line for each inline code of a page that is wrong."""
    shown = {block.file for block in blocks_of(text)} | {"tasks/my_task.yaml"}
    made = tuple(f"{name}/" for name in re.findall(r"--(?:out|run) ([\w/.-]+)", text))
    wrong = []
    for item in inline_code_of(text):
        try:
            if not item.text.startswith(made):
                check_inline(item.text, shown)
        except Exception as error:
            wrong.append(f"{page}:{item.line}: `{item.text}`: {error}")
    return wrong


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_keys_and_files_in_a_text_exist(page: str) -> None:
    assert wrong_in(page, PAGES[page]) == []


WRONG_INLINE = (
    "evomerge lst",
    "evomerge search FILE --rn DIR",
    "evomerge resume RUN --set executor.kin=ray",
    "evaluation.search.document",
    "evaluation.batch_size: large",
    "budget.hours=-1",
    "make all",
    "python benchmarks/no.py",
    "configs/no.yaml",
    "searching/no.py",
)


@pytest.mark.parametrize("code", WRONG_INLINE)
def test_wrong_inline_code_is_found(code: str) -> None:
    (found,) = wrong_in("page", f"A text\nwith `{code}` and `evaluation.search.documents: N`.")
    assert found.startswith(f"page:2: `{code}`: ")
