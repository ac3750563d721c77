"""Tokenizer files that make the tokenizers library panic, which is no Exception in Python."""

import copy
import json

import pytest
from attacks.targets.models import BPE, tokenizer_pair
from tokenizers import Tokenizer

import evomerge.__main__ as program
from evomerge.errors import CheckpointError
from evomerge.merging.backend import load_tokenizer
from evomerge.merging.tokenizers.union import check_merged

pytestmark = pytest.mark.thorough

PANICKING = copy.deepcopy(BPE)
PANICKING["model"]["continuing_subword_prefix"] = "0.5"


def test_a_tokenizer_of_a_parent(tmp_path):
    folder, _ = tokenizer_pair(tmp_path, PANICKING)
    with pytest.raises(CheckpointError, match=r"no tokenizer that transformers can load .*range"):
        load_tokenizer(folder, "a")


def test_a_merged_tokenizer():
    with pytest.raises(CheckpointError, match=r"merged tokenizer cannot be loaded: .*range"):
        check_merged(PANICKING, {})


def test_a_panic_anywhere_else_is_one_sentence(monkeypatch, capsys):
    def panic(arguments):
        Tokenizer.from_str(json.dumps(PANICKING))

    monkeypatch.setattr(program, "run", panic)
    monkeypatch.setattr(program.signal, "getsignal", lambda number: program.signal.SIG_IGN)
    monkeypatch.setattr(program.sys, "argv", ["evomerge", "list"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("evomerge: PanicException: ") and said.endswith(
        "(--debug shows the traceback)"
    )
