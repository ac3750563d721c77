"""A key and a command, which no plugin can add, each take two files (CONTRIBUTING.md)."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from search_run import command, environment, write_search

import evomerge

HOME = Path(evomerge.__file__).parent
KEY = {
    "config/evaluation.py": (
        "    finalists: ",
        '    remark: str = ""\n    """what `validate` prints"""\n    finalists: ',
    ),
    "problem/preflight.py": (
        '        "host": problem.host,\n',
        '        "host": problem.host,\n        "remark": config.evaluation.validation.remark,\n',
    ),
}
COMMAND = {
    "cli/models.py": (
        "def schema() -> None:",
        'def hum() -> None:\n    """Print a word."""\n    terminal.print_values({"hum": 1})\n\n\n'
        "def schema() -> None:",
    ),
    "cli/commands.py": ("models.schema)", "models.schema, models.hum)"),
}


class Changed:
    """A copy of the package in which a text of some files is replaced by another."""

    def __init__(self, folder: Path, changes: dict[str, tuple[str, str]]) -> None:
        self.folder, package = folder, folder / "evomerge"
        shutil.copytree(HOME, package, ignore=shutil.ignore_patterns("__pycache__"))
        for name, (before, after) in changes.items():
            text = (package / name).read_text()
            assert text.count(before) == 1
            (package / name).write_text(text.replace(before, after))

    def says(self, *arguments: object) -> str:
        """Return what a command prints."""
        where = {"cwd": self.folder, "env": environment(PYTHONPATH=str(self.folder))}
        done = subprocess.run(command(*arguments), capture_output=True, text=True, **where)
        return done.stdout + done.stderr


def test_a_command_is_a_function_and_its_name_in_a_group(tmp_path):
    package = Changed(tmp_path, COMMAND)
    assert len(COMMAND) == 2
    assert "  hum       Print a word." in package.says("--help")
    assert package.says("hum") == "what\tvalue\nhum\t1\n"


@pytest.mark.thorough
def test_a_key_is_a_field_and_what_uses_it(tmp_path):
    package, file = Changed(tmp_path, KEY), write_search(tmp_path)
    assert len(KEY) == 2
    section = json.loads(package.says("schema"))["$defs"]["ValidationSplit"]
    assert section["properties"]["remark"]["description"] == "what `validate` prints"

    def validated(change: str) -> str:
        return package.says("validate", file, "--set", f"evaluation.validation.{change}")

    assert "remark\thear\n" in validated("remark=hear")
    wrong = "`evaluation.validation.remark` is [1]; it must be text."
    assert wrong in validated("remark=[1]")
