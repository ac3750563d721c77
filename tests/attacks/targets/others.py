"""Tokenizers without `tokenizer.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attacks.targets.target import Read, Target, near_json
from hypothesis import strategies as st
from mutations import damaged

from evomerge.merging.backend import load_tokenizer

VOCABULARY = {"<pad>": 0, "a": 1, "b": 2, "ab": 3, "c": 4}
MERGES = b"#version: 0.2\na b\n"


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
}
