"""A model gets the vocabulary of another one, and loads and merges as any checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
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
from evomerge import zoo
from evomerge.__main__ import run as call
from evomerge.errors import InputError

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


SAME = {"▁the": "Ġthe", "▁cat": "Ġcat", "at": "at", "<0xC3>": "Ã", "<0xA9>": "©", "\n": "Ċ"}
SAME |= {"<x>": "<x>", "</s>": "<end>", "<b>": "<s>"}
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
    known = _kept(model, donor)
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


def test_the_rest_stays_and_transformers_loads_it(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model, donor = pair
    (model / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 3], "top_k": 5}))
    done = evomerge.transplant(model, donor, tmp_path / "out", atoms=4)
    old, new = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "out"))
    changed = {"model.embed_tokens.weight", "lm_head.weight"}
    assert {name for name in old if not old[name].equal(new[name])} == changed
    loaded = tiny.load(tmp_path / "out")
    assert type(loaded).__name__ == "LlamaForCausalLM"
    assert (loaded.config.bos_token_id, loaded.config.eos_token_id) == (2, 1)
    # It stops at the eos of the model (now 1) and where it stopped besides (`Ġ`, now 3).
    assert loaded.generation_config.eos_token_id == [1, ids(donor)["▁"]]
    assert loaded.generation_config.top_k == 5
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    written = tokenizer(" the cat é\n")["input_ids"]
    assert tokenizer.decode(written) == " the cat é\n"
    assert loaded(torch.tensor([written])).logits.isfinite().all()
    assert not done.notes


def test_a_tied_head_is_not_stored_and_its_sums_are_those_of_embeddings(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    tied = tiny.make(tmp_path / "tied", tied=True, seed=1, tokenizer=False)
    save_bpe(tied, "byte-level", {"bos_token": "<s>", "eos_token": "<end>", "pad_token": "<x>"})
    evomerge.transplant(tied, pair[1], tmp_path / "out", atoms=4)
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    loaded = tiny.load(tmp_path / "out")
    head = loaded.get_output_embeddings().weight
    assert head.data_ptr() == loaded.get_input_embeddings().weight.data_ptr()


def test_rows_for_padding_are_those_of_the_donor(tmp_path: Path) -> None:
    model = tiny.make(tmp_path / "model")
    donor = tiny.make(tmp_path / "donor", vocab_size=64)
    done = evomerge.transplant(model, donor, tmp_path / "out", atoms=4)
    assert (done.rows, done.kept, done.approximated) == (64, 48, 0)
    assert rows(tmp_path / "out")[0][:48].equal(rows(model)[0])


TEMPLATE = "{% for m in messages %}<|a|>{{ m.content }}{% endfor %}"


@pytest.mark.parametrize("has_token", [True, False])
def test_the_chat_template_stays_if_the_donor_has_its_tokens(
    pair: tuple[Path, Path], tmp_path: Path, has_token: bool
) -> None:
    model, donor = pair
    special = {"additional_special_tokens": ["<|a|>"]}
    save_bpe(model, "byte-level", {"pad_token": "<x>"}, **special)
    save_bpe(donor, "SentencePiece", {"pad_token": "<x>"}, **(special if has_token else {}))
    (model / "chat_template.jinja").write_text(TEMPLATE)
    (donor / "chat_template.jinja").write_text("the donor's")
    done = evomerge.transplant(model, donor, tmp_path / "out", atoms=4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == (TEMPLATE if has_token else "the donor's")
    said = f"is still that of '{model}'" if has_token else "whose tokenizer lacks '<|a|>'"
    assert said in done.notes[0]


def test_no_row_is_given_to_two_special_tokens(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """A pad token with the row of eos would be as probable as eos, and end nothing."""
    model, donor = pair
    save_bpe(model, "byte-level", {"eos_token": "<end>", "pad_token": "<end>"})
    save_bpe(donor, "SentencePiece", {"pad_token": "<x>", "eos_token": "</s>"})
    evomerge.transplant(model, donor, tmp_path / "out", atoms=4)
    (old, _), (new, _) = rows(model), rows(tmp_path / "out")
    assert new[ids(donor)["</s>"]].equal(old[ids(model)["<end>"]])
    assert not new[ids(donor)["<x>"]].equal(old[ids(model)["<end>"]])


@pytest.mark.parametrize("by", ["omp", "subtokens"])
def test_the_card_says_what_became_of_the_tokens_and_repeats_it(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    model, donor = pair
    for folder in pair:
        (folder / "README.md").write_text("---\nlicense: mit\nlanguage: en\n---\n")
    special = {"bos_token": "<s>", "eos_token": "<end>", "pad_token": "<x>"}
    save_bpe(model, "byte-level", special, additional_special_tokens=["<|a|>"])
    (model / "chat_template.jinja").write_text(TEMPLATE)
    (donor / "chat_template.jinja").write_text("the donor's")
    if by == "subtokens":  # a folder of a tokenizer alone
        (donor / "config.json").unlink()
    options = {"omp": "--atoms 4", "subtokens": "--by subtokens"}[by]
    command = f"evomerge transplant model --tokenizer donor --out MODEL_DIR {options}"
    evomerge.transplant(model, donor, tmp_path / "out", by=by, atoms=4)
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"\n```\n{command}\n```\n" in card
    assert "# model with the vocabulary of donor" in card
    assert "| 18 | those of the same tokens in model |" in card
    sums = {"omp": "| 2 | sums of 4 rows of model: ", "subtokens": "| 1 | averages of the rows of"}
    assert sums[by] in card
    assert "Tokens of `model` that are gone: 1 of 19." in card
    assert r"The chat template is that of 'donor', whose tokenizer lacks '\<\|a\|\>'" in card
    assert "license: mit" in card and "name the licence `mit`" in card
    assert str(tmp_path) not in card
    monkeypatch.chdir(tmp_path)
    assert call(command.replace("MODEL_DIR", "again").split()[1:]) == 0
    for name in ("model.safetensors", "config.json", "README.md", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def _same_tokenizer(model: Path, donor: Path) -> None:
    for file in model.glob("tokenizer*"):
        shutil.copy(file, donor)


def _no_weights(model: Path, donor: Path) -> None:
    (donor / "model.safetensors").unlink()


def _word_pieces(model: Path, donor: Path) -> None:
    _edit_tokenizer(donor, lambda data: data["model"].update(continuing_subword_prefix="##"))


def _nothing_in_common(model: Path, donor: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (donor / name).unlink()
    tiny.save_tokenizer(donor, [f"other{i}" for i in range(44)] + tiny.WORDS[:4])
    _edit_tokenizer(donor, lambda data: data["added_tokens"].clear())


def _edit_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    change(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("spoil", "options", "sentence"),
    [
        (_same_tokenizer, {}, "have the same tokens with the same ids, so there is nothing to"),
        (_no_weights, {}, "has a tokenizer and no weights, but omp reads the embeddings"),
        (_word_pieces, {}, r"marks parts of words \(continuing_subword_prefix: '##'\)"),
        (
            None,
            {"atoms": 17},
            "--atoms is 17; it must be a whole number from 1 to 16, since 18 tokens are in both",
        ),
        (None, {"atoms": 0}, "--atoms is 0; it must be a whole number from 1 to 16"),
        (None, {"atoms": 1.5}, "--atoms is 1.5; it must be a whole number"),
        (None, {"atoms": "x"}, "--atoms is 'x'; it must be a whole number"),
        (None, {"by": "opm"}, "--by is 'opm'; allowed are omp, subtokens.*Did you mean 'omp'"),
        (None, {"shard_size": "much"}, "--shard-size is 'much'"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(
    pair: tuple[Path, Path],
    tmp_path: Path,
    spoil: Callable[[Path, Path], None] | None,
    options: dict[str, Any],
    sentence: str,
) -> None:
    if spoil is not None:
        spoil(*pair)
    with pytest.raises(InputError, match=sentence):
        evomerge.transplant(*pair, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_models_without_a_token_in_common_or_without_texts_are_refused(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    encoder = tiny.make(tmp_path / "bert", "bert")
    with pytest.raises(InputError, match="of the kind masked language model, and only a causal"):
        evomerge.transplant(encoder, pair[1], tmp_path / "out")
    reader = tiny.make(tmp_path / "t5", "t5")
    with pytest.raises(InputError, match="of the kind encoder-decoder, and only a causal"):
        evomerge.transplant(reader, pair[1], tmp_path / "out")
    words, others = tiny.make(tmp_path / "words"), tiny.make(tmp_path / "others")
    _nothing_in_common(words, others)
    with pytest.raises(InputError, match="have no token in common; name another donor"):
        evomerge.transplant(words, others, tmp_path / "out")


GONE = {"tom", "apples", "5", "12", "buys"}
"""Words that the expert of another vocabulary does not know."""


def other_words(folder: Path) -> None:
    """Save a tokenizer of the embedded family's words in another order, without some of them."""
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(zoo.path("maths") / name, folder)

    def change(data: dict[str, Any]) -> None:
        words = [word for word in data["model"]["vocab"] if word not in GONE]
        order = [*words[:3], *words[:2:-1]]  # the special tokens are first
        data["model"]["vocab"] = {word: i for i, word in enumerate(order)}

    _edit_tokenizer(folder, change)


SCORED = {
    "parents": ["zoo:base", "zoo:maths"],
    "space": {"method": "linear"},
    "objectives": [{"task": "zoo_maths", "metric": "exact_match"}],
    "evaluation": {
        "include": ["zoo:tasks"],
        "search": {"documents": 5},
        "validation": {"documents": 5},
        "test": {"documents": 50},
    },
}
MERGE = """
merge_method: linear
dtype: float32
models:
  - {model: ./back, parameters: {weight: 0.8}}
  - {model: zoo:base, parameters: {weight: 0.2}}
"""


def test_an_expert_of_another_vocabulary_is_merged_after_a_transplant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    other_words(tmp_path / "words")
    Path("merge.yaml").write_text(MERGE)

    def transplant(words: str) -> None:
        assert call(["transplant", *words.split()]) == 0

    transplant("zoo:maths --tokenizer words --by subtokens --out expert")
    capsys.readouterr()
    transplant("expert --tokenizer zoo:base --out back --json")
    done = json.loads(capsys.readouterr().out)
    assert (done["rows"], done["kept"], done["approximated"]) == (113, 108, 5)
    transplant("expert --tokenizer zoo:base --out poor --by subtokens")
    assert "108 tokens have the rows of expert, 0 have sums of them" in capsys.readouterr().err
    assert call(["merge", "merge.yaml", "--out", "merged"]) == 0

    def score(model: str) -> float:
        (found,) = evomerge.evaluate(model, SCORED).values()
        return found.value

    assert score("zoo:maths") == 1 and score("back") > 0.95
    assert score("poor") < 0.8  # its five words have the average row
    assert score("merged") > 0.9
