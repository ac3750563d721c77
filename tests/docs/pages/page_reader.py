"""A reader of the documentation, who does what a page says from top to bottom in one folder.

What a block is follows from its language (`KINDS`), for YAML also from its keys (`page_yaml`), and
what a command is from its program (`page_commands`). A block or program that is in none of these
tables is an error.
"""

import contextlib
import io
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import page_commands
import page_yaml
import yaml
from page_stand_ins import make_what_is_used, small_searches
from pages import ROOT, Block, blocks_of

import evomerge


class Reader:
    """A person who does what a page says, in the working folder.

    `printed`: what the last block printed, and whether it is whole, whatever the budget.
    """

    def __init__(self) -> None:
        self.names = sys.modules["__main__"].__dict__
        self.printed: tuple[str, bool] | None = None

    def read(self, block: Block) -> None:
        assert block.language in KINDS, (
            f"unknown language {block.language!r}; see tests/docs/pages/page_reader.py"
        )
        if KINDS[block.language] in (Reader.python, Reader.shell):
            make_what_is_used(block.text)
        KINDS[block.language](self, block)

    def python(self, block: Block) -> None:
        """Run Python; names carry over to the next block."""
        if block.file and block.file.endswith(".py"):
            Path(block.file).write_text(block.text)
        printed = io.StringIO()
        code = compile("\n" * block.line + block.text, "page", "exec")
        with contextlib.redirect_stdout(printed), small_searches():
            exec(code, self.names)
        self.printed = printed.getvalue(), True

    def citation(self, block: Block) -> None:
        """Check that a BibTeX entry and CITATION.cff have the version of this package."""
        file = yaml.safe_load((ROOT / "CITATION.cff").read_text())
        entry = dict(re.findall(r"(\w+) *= \{(.*)\}", block.text))
        assert entry["version"] == file["version"] == evomerge.__version__
        assert entry["title"] == file["title"]

    def yaml(self, block: Block) -> None:
        """Check YAML, and write it into the file that the page names."""
        # A function that the text says to put into a module, and a block has defined.
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
        Path("pyproject.toml").write_text(block.text)

    def shell(self, block: Block) -> None:
        """Run commands, one after the other."""
        text, whole = "", True
        for command in page_commands.commands_of(block.text):
            try:
                text += page_commands.execute(command)
            except SystemExit as error:
                raise AssertionError(f"`{' '.join(command)}` ends with {error.code}") from error
            except Exception as error:
                raise AssertionError(f"`{' '.join(command)}`: {error}") from error
            whole = whole and command[0] == "evomerge" and command[1] in page_commands.WHOLE
        self.printed = text, whole

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


def _measures_aside(line: str) -> str:
    """Return a line of output without its spaces, and without what depends on the machine."""
    size, time = r"\d[\d.,]* [kMGT]?B\b", r"\d[\d.,]*(?= (m?s|CPU|seconds?|minutes?)\b)"
    return re.sub(time, "N", re.sub(size, "a size", " ".join(line.split())))


KINDS: dict[str, Callable[[Reader, Block], None]] = {
    "python": Reader.python,
    "yaml": Reader.yaml,
    "toml": Reader.toml,
    "": Reader.shell,
    "sh": Reader.shell,
    "text": Reader.output,
    "bibtex": Reader.citation,
}
"""Language of a block -> what a reader does with it."""


def read(page: str, text: str) -> None:
    """Do what a page says; an AssertionError begins with the page and the line of a wrong block."""
    reader = Reader()
    for block in blocks_of(text):
        try:
            reader.read(block)
        except Exception as error:
            raise AssertionError(f"{page}:{block.line}: {error}") from error
