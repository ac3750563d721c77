"""What `--help` shows on a narrow terminal."""

import re

import pytest
from typer.main import get_command

from evomerge.__main__ import run
from evomerge.cli.commands import app

COMMANDS = get_command(app).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_whole_names_of_options_and_no_twins(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run([name, "--help"]) == 0
    shown = capsys.readouterr().out
    names = [word for item in COMMANDS[name].params for word in item.opts if word[:2] == "--"]
    assert set(names) <= set(re.findall(r"--[a-z-]+", shown))
    assert "<bool>" not in shown and "--no-" not in shown
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
