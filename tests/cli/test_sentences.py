"""Errors on a terminal and in a pipe, and the form that every error has."""

import ast
import os
import pty
import re
import subprocess
from pathlib import Path

import pytest
from search_run import command, environment

import evomerge
from evomerge.errors import RunFolderError
from evomerge.run.folder import RunFolder

PACKAGE = Path(evomerge.__file__).parent


def test_a_terminal_gets_whole_words_and_paths_and_a_pipe_one_line(tmp_path):
    folder = "long-" * 20 + "path"
    arguments = command("status", folder)
    reader, writer = pty.openpty()
    done = subprocess.run(arguments, stderr=writer, env=environment(COLUMNS="60"), cwd=tmp_path)
    os.close(writer)
    shown = os.read(reader, 10_000).decode().splitlines()
    os.close(reader)
    assert done.returncode == 2
    assert all(len(line) <= 60 for line in shown if folder not in line) and len(shown) > 2
    piped = subprocess.run(arguments, capture_output=True, env=environment(), cwd=tmp_path)
    assert " ".join(map(str.strip, shown)) + "\n" == piped.stderr.decode()
    assert f"--run {folder}`" in piped.stderr.decode()


def _errors(file: Path):
    """Yield line and text of each error that a file raises; what is filled in is an x."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args):
            continue
        sentence = node.exc.args[0]
        if isinstance(sentence, ast.Constant) and isinstance(sentence.value, str):
            yield node.lineno, sentence.value
        elif isinstance(sentence, ast.JoinedStr):
            parts = (v.value if isinstance(v, ast.Constant) else "x" for v in sentence.values)
            yield node.lineno, "".join(map(str, parts))


def test_every_error_is_one_sentence_with_the_remedy_behind_a_semicolon():
    found = {
        f"{file.relative_to(PACKAGE)}:{line}": text
        for file in sorted(PACKAGE.rglob("*.py"))
        for line, text in _errors(file)
    }
    assert len(found) > 300
    second = re.compile(r"[.!)] (?!Did you mean)\(?[A-Z`]")
    assert {place: text for place, text in found.items() if second.search(text)} == {}


def test_every_suggested_command_quotes_what_is_filled_in():
    unquoted = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (
                    v.value if isinstance(v, ast.Constant) else f"{{{ast.unparse(v.value)}}}"
                    for v in node.values
                )
                for command_line in re.findall(r"`((?:evomerge|wandb) [^`]*)`", "".join(parts)):
                    filled = re.findall(r"\{(.*?)\}(?:`| |$)", command_line)
                    if not all("shlex.quote" in item or item == "quoted" for item in filled):
                        unquoted[f"{file.relative_to(PACKAGE)}:{node.lineno}"] = command_line
    assert unquoted == {}
    with pytest.raises(RunFolderError, match="--run 'my runs'`"):
        RunFolder(Path("my runs"))
