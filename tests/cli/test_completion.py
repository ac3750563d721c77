"""What a shell offers when Tab is pressed; the shell asks evomerge through its environment."""

from __future__ import annotations

import pytest

from evomerge.__main__ import run


@pytest.fixture
def offered(tmp_path, monkeypatch, capsys):
    """Return a function: a command line -> what bash is offered for its last word."""
    monkeypatch.chdir(tmp_path)

    def complete(line: str) -> list[str]:
        words = line.split(" ")
        monkeypatch.setenv("_EVOMERGE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
        with pytest.raises(SystemExit):
            run([])
        return capsys.readouterr().out.split()

    return complete


def test_names_are_completed(offered):
    assert offered("evomerge va") == ["validate"]
    assert offered("evomerge list ") == ["methods", "optimizers", "spaces", "parents"]
    assert offered("evomerge list opt") == ["optimizers"]
    assert offered("evomerge search x.yaml --run y --track tr") == ["trackio"]
    assert offered("evomerge resume y --track w") == ["wandb"]
    assert offered("evomerge init --preset da") == ["dataflow"]
    assert offered("evomerge evaluate m --split te") == ["test"]


def test_files_are_left_to_the_shell(offered, tmp_path):
    (tmp_path / "search.yaml").touch()
    assert offered("evomerge validate ") == offered("evomerge status s") == []


def test_the_options_are_in_the_main_help_only(capsys):
    assert run(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out
    assert run(["status", "--help"]) == 0
    assert "completion" not in capsys.readouterr().out
