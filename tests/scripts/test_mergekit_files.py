"""The comparison with mergekit: what is built, and what counts as agreement."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from scripts.mergekit_files import __main__ as command
from scripts.mergekit_files.compare import compare

FILE = """
models:
- {model: org/one+org/adapter, parameters: {weight: 0.6, density: 0.4}}
- {model: org/two, parameters: {weight: 0.4, density: 0.4}}
merge_method: dare_ties
base_model: org/base
tokenizer_source: union
dtype: bfloat16
"""
REFUSING = """#!/bin/sh
shift
for folder; do echo "ValueError: not this one" > "$folder/mergekit.txt"; echo 1; done
"""
COPYING = """#!/bin/sh
shift
for folder; do echo > "$folder/mergekit.txt"; cp -r "$COPIED" "$folder/mergekit"; echo 0; done
"""
WEIGHT = torch.arange(1.0, 13.0).reshape(4, 3)


def save(folder: Path, tensors: dict[str, torch.Tensor], tokens: str = "abcd") -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    vocabulary = {"vocab": {token: i for i, token in enumerate(tokens)}}
    content = {"model": vocabulary, "added_tokens": []}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize(
    ("theirs", "verdict"),
    [
        ({"w": WEIGHT}, "equal"),
        ({"w": WEIGHT.bfloat16()}, "equal"),
        ({"w": WEIGHT * (1 + 1e-6)}, "rounding"),
        ({"w": WEIGHT * (1 + 1e-5)}, "differs"),
        ({"w": WEIGHT * float("nan")}, "differs"),
        ({"w": WEIGHT[:3].clone()}, "differs"),
        ({"w": WEIGHT, "v": WEIGHT.clone()}, "other names"),
    ],
)
def test_a_verdict(tmp_path: Path, theirs: dict[str, torch.Tensor], verdict: str) -> None:
    two = save(tmp_path / "two", theirs)
    assert compare(save(tmp_path / "one", {"w": WEIGHT}), two)[0] == verdict


def test_rows_are_compared_by_token(tmp_path: Path) -> None:
    one = save(tmp_path / "one", {"w": WEIGHT})
    two = save(tmp_path / "two", {"w": WEIGHT[[0, 3, 1, 2]]}, "adbc")
    assert compare(one, two) == ("equal", "")


def run(tmp_path: Path, mergekit: str, capsys: Any, monkeypatch: Any) -> tuple[Any, Any, Path]:
    """Return the first line and the counts of the command with a stand-in for mergekit."""
    (tmp_path / "file.yml").write_text(FILE)
    python = tmp_path / "python"
    python.write_text(mergekit)
    python.chmod(0o755)
    work = tmp_path / "work"
    monkeypatch.setenv("COPIED", str(work / "models" / "llama-4-tokens" / "0"))
    options = ["--mergekit", str(python), "--stand-ins", "llama", "--work", str(work)]
    with patch("sys.argv", ["mergekit_files", str(tmp_path / "file.yml"), *options]):
        command.main()
    first, *_, counts = capsys.readouterr().out.splitlines()
    return first, json.loads(counts), work


def test_a_file_that_only_evomerge_builds(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    line, counts, work = run(tmp_path, REFUSING, capsys, monkeypatch)
    assert line.endswith("only evomerge   mergekit: ValueError: not this one")
    assert counts == {"only evomerge": 1}
    built = yaml.safe_load((work / "file" / "file.yaml").read_text())
    assert built["dtype"] == "float32" and built["parameters"] == {"density": 1.0}
    assert [model["parameters"]["density"] for model in built["models"]] == [1.0, 1.0]
    base, one, two = built["base_model"], *(model["model"] for model in built["models"])
    assert [Path(name).name for name in (base, one, two)] == ["0", "1", "2"]
    rows = [
        len(load_file(Path(name) / "model.safetensors")["lm_head.weight"]) for name in (one, base)
    ]
    assert rows[0] == rows[1] + 2


def test_a_file_that_both_build(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    _, counts, _ = run(tmp_path, COPYING, capsys, monkeypatch)
    assert counts == {"differs": 1}
