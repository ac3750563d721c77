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
    visible = [item for item in COMMANDS[name].params if not getattr(item, "hidden", False)]
    names = [word for item in visible for word in item.opts if word[:2] == "--"]
    assert set(names) <= set(re.findall(r"--[a-z-]+", shown))
    assert "<bool>" not in shown and "--no-" not in shown
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80


def test_commands_are_in_groups_one_line_each(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["--help"]) == 0
    *_, search, results, models, information = capsys.readouterr().out.split("\n\n")
    parts = [part.splitlines() for part in (search, results, models, information)]
    assert [part[0] for part in parts] == ["Search:", "Results:", "Models:", "Information:"]
    assert sorted(line.split()[0] for part in parts for line in part[1:]) == sorted(COMMANDS)


def test_consent_to_code_is_in_the_help_of_what_runs_models(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        run([name, "--help"])
        shown = capsys.readouterr().out
        assert ("--allow-code" in shown) == (name in ("search", "resume", "evaluate"))
        assert ("--allow-benchmarks" in shown) == (name == "search")
