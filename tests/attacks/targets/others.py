"""Tokenizers without `tokenizer.json`, and the file with what the user has allowed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from attacks.targets.target import Read, Target, near_json
from hypothesis import strategies as st
from mutations import damaged

from evomerge.errors import ConfigError
from evomerge.merging.backend import load_tokenizer
from evomerge.trust.consent import NOTHING, VARIABLE, CodeFile, is_recorded

VOCABULARY = {"<pad>": 0, "a": 1, "b": 2, "ab": 3, "c": 4}
MERGES = b"#version: 0.2\na b\n"
TRUSTED = {"version": 1, "files": {"0" * 64: "/a/tools.py", "1" * 64: "/a/task.yaml"}}


def old_tokenizers(name: str, files: dict[str, bytes], kind: str) -> Any:
    """Return the reader of one file of a tokenizer without `tokenizer.json`."""

    def reader(folder: Path) -> Read:
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
        for other, data in files.items():
            (folder / other).write_bytes(data)

        def read(data: bytes) -> Any:
            (folder / name).write_bytes(data)
            return load_tokenizer(folder, "model")

        return read

    return reader


def consents(folder: Path) -> Read:
    """The file with what the user has allowed; a damaged one allows nothing."""
    strange = CodeFile(folder / "strange.py", "2" * 64)

    def read(data: bytes) -> Any:
        (folder / "trusted.json").write_bytes(data)
        with patch.dict(os.environ, {VARIABLE: str(folder)}):
            found = [is_recorded("0" * 64)]
            try:
                NOTHING.require([strange])
            except ConfigError as error:
                assert len(str(error)) < 1000 and str(error).isprintable(), error
            else:
                raise AssertionError("A file was allowed by nobody.")
        return found

    return read


_VOCABULARY = json.dumps(VOCABULARY).encode()
_GPT2 = {"vocab.json": _VOCABULARY, "merges.txt": MERGES}
OTHERS = {
    "vocab.json": near_json(old_tokenizers("vocab.json", _GPT2, "GPT2Tokenizer"), VOCABULARY),
    "merges.txt": Target(
        (MERGES,),
        damaged(MERGES)
        | st.lists(st.sampled_from(["a b", "b", "a b c", "x y", ""])).map(
            lambda lines: "\n".join(lines).encode()
        ),
        old_tokenizers("merges.txt", _GPT2, "GPT2Tokenizer"),
    ),
    "trusted.json": near_json(consents, TRUSTED),
}
