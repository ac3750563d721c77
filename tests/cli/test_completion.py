"""What a shell offers when Tab is pressed; the shell asks evomerge through its environment."""

from __future__ import annotations

import pytest

from evomerge.__main__ import run


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("evomerge va", ["validate"]),
        ("evomerge list ", ["methods", "optimizers", "spaces", "parents"]),
        ("evomerge search x.yaml --run y --track tr", ["trackio"]),
        ("evomerge init --preset da", ["dataflow"]),
        ("evomerge evaluate m --split te", ["test"]),
        ("evomerge validate ", []),  # files are left to the shell
        ("evomerge status s", []),
    ],
)
def test_names_are_completed(line, offered, tmp_path, monkeypatch, capsys):
    (tmp_path / "search.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_EVOMERGE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(line.count(" ")))
    with pytest.raises(SystemExit):
        run([])
    assert capsys.readouterr().out.split() == offered
