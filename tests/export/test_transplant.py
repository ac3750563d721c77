"""A model gets the vocabulary of another one, and loads and merges as any checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import transformers
from safetensors.torch import load_file
from sklearn.linear_model import orthogonal_mp
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import evomerge

BYTES = ["Ġ", "t", "h", "e", "c", "a", "Ã", "©", "Ċ", "Ġt", "he", "Ġthe", "Ġc", "at", "Ġcat"]
PIECES = ["▁", "t", "h", "e", "c", "a", "s", "\n", "▁t", "he", "▁the", "▁c", "at", "▁cat", "▁cats"]
MERGES = [
    ("t", "h"),
    ("{}", "t"),
    ("h", "e"),
    ("{}t", "he"),
    ("{}", "c"),
    ("a", "t"),
    ("{}c", "at"),
]


def save_bpe(folder: Path, kind: str, special: dict[str, str], **extra: Any) -> None:
    """Save a tokenizer of a few pieces, byte-level or as SentencePiece, special tokens first."""
    level = kind == "byte-level"
    words = [*special.values(), *(BYTES if level else [*PIECES, "<0xC3>", "<0xA9>", "<0x0A>"])]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    space = "Ġ" if level else "▁"
    pairs = [(a.format(space), b) for a, b in MERGES[1:]] + ([] if level else [("▁cat", "s")])
    core = Tokenizer(models.BPE(vocabulary, pairs, byte_fallback=not level))
    if level:
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
    else:
        core.normalizer = normalizers.Replace(" ", "▁")
        replace = decoders.Replace("▁", " ")
        core.decoder = decoders.Sequence([replace, decoders.ByteFallback(), decoders.Fuse()])
    PreTrainedTokenizerFast(tokenizer_object=core, **special, **extra).save_pretrained(folder)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Return a byte-level model and a donor of another architecture with SentencePiece tokens."""
    model = tiny.make(tmp_path / "model", tied=False, seed=1, tokenizer=False, dtype="bfloat16")
    donor = tiny.make(tmp_path / "donor", "qwen2", tied=False, seed=2, tokenizer=False)
    save_bpe(model, "byte-level", {"bos_token": "<s>", "eos_token": "<end>", "pad_token": "<x>"})
    save_bpe(donor, "SentencePiece", {"pad_token": "<x>", "eos_token": "</s>", "bos_token": "<b>"})
    tiny.edit_config(model, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    tiny.edit_config(donor, bos_token_id=2, eos_token_id=1, pad_token_id=0)
    return model, donor


def ids(folder: Path) -> dict[str, int]:
    return transformers.AutoTokenizer.from_pretrained(folder).get_vocab()


def rows(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = load_file(folder / "model.safetensors")
    embeddings = tensors["model.embed_tokens.weight"]
    return embeddings, tensors.get("lm_head.weight", embeddings)


SAME = {
    "▁the": "Ġthe", "▁cat": "Ġcat", "at": "at", "<0xC3>": "Ã", "<0xA9>": "©", "\n": "Ċ",
    "<x>": "<x>", "</s>": "<end>", "<b>": "<s>",
}
"""Token of the donor -> token of the model: in another spelling, by text, and by role."""


@pytest.mark.parametrize("by", ["omp", "subtokens"])
def test_tokens_that_both_have_keep_their_rows(
    pair: tuple[Path, Path], tmp_path: Path, by: str
) -> None:
    model, donor = pair
    done = evomerge.transplant(model, donor, tmp_path / "out", by=by, atoms=4)
    # `s` and ` cats`; no piece of the model is `s`
    assert (done.rows, done.approximated) == (tiny.VOCABULARY, 2 if by == "omp" else 1)
    for old, new in zip(rows(model), rows(tmp_path / "out"), strict=True):
        assert new.dtype == torch.bfloat16
        for theirs, mine in SAME.items():
            assert new[ids(donor)[theirs]].equal(old[ids(model)[mine]])


def test_other_rows_are_the_sums_that_fit_the_donor(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    model, donor = pair
    evomerge.transplant(model, donor, tmp_path / "out", atoms=4)
    known = {i: j for i, j in _kept(model, donor).items()}
    new_id = ids(donor)["▁cats"]
    every = zip(rows(model), rows(donor), rows(tmp_path / "out"), strict=True)
    for mine, theirs, new in every:  # embeddings, then the head by itself
        sums = orthogonal_mp(
            theirs[list(known)].T.double().numpy(),
            theirs[new_id].double().numpy(),
            n_nonzero_coefs=4,
        )
        wanted = sums @ mine[list(known.values())].double().numpy()
        np.testing.assert_allclose(new[new_id].double().numpy(), wanted, rtol=0.01, atol=0.002)


def _kept(model: Path, donor: Path) -> dict[int, int]:
    mine, texts = ids(model), {**SAME, **{text: text.replace("▁", "Ġ") for text in PIECES}, **SAME}
    return {i: mine[texts[text]] for text, i in ids(donor).items() if texts.get(text) in mine}


def test_a_token_is_the_average_of_its_pieces_and_padding_that_of_all(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    model, donor = pair
    save_bpe(donor, "SentencePiece", {"pad_token": "<x>"}, additional_special_tokens=["the cat"])
    evomerge.transplant(model, donor, tmp_path / "out", by="subtokens")
    (old, _), (new, _), mine = rows(model), rows(tmp_path / "out"), ids(model)
    pieces = old[[mine["t"], mine["he"], mine["Ġcat"]]].float().mean(0)
    assert new[ids(donor)["the cat"]].equal(pieces.bfloat16())
    without = [*range(len(ids(donor)), tiny.VOCABULARY), ids(donor)["s"], ids(donor)["<0x0A>"]]
    others = [i for i in range(tiny.VOCABULARY) if i not in {*without, ids(donor)["▁cats"]}]
    assert all(new[i].equal(new[without[0]]) for i in without)
    average = new[[*others, ids(donor)["▁cats"]]].double().mean(0)
    np.testing.assert_allclose(new[without[0]].double(), average, atol=0.002)
