"""Tokenizers of merged models: rows are matched by token, ids stay, conflicts are reported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from evomerge.errors import CheckpointError, RecipeError
from evomerge.mergekit import express
from evomerge.merging.backend import tokenizer, write
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>"]
ENGLISH = ["the cat sat on the mat and the other cat there", "then they went home together"]
FRENCH = ["le chat noir dort dans la maison", "la mer et le soleil dans le ciel noir"]


def trained(kind: str, texts: list[str], size: int) -> Tokenizer:
    """Train a tokenizer of the tokenizers library."""
    unknown = {} if kind in ("BPE", "Unigram") else {"unk_token": "<unk>"}
    found, how = Tokenizer(getattr(models, kind)(**unknown)), {}
    if kind == "BPE":
        found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        found.decoder = decoders.ByteLevel()
        how = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    elif kind == "Unigram":
        found.pre_tokenizer, found.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        how = {"unk_token": "<unk>"}
    else:
        found.pre_tokenizer, found.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    trainer = getattr(trainers, f"{kind.title() if kind == 'BPE' else kind}Trainer")
    found.train_from_iterator(
        texts, trainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False, **how)
    )
    return found


def bpe(texts: list[str], size: int) -> Tokenizer:
    return trained("BPE", texts, size)


def words(texts: list[str], size: int) -> Tokenizer:
    tokens = dict.fromkeys([*SPECIAL, *(word for text in texts for word in text.split())])
    vocabulary = {word: i for i, word in enumerate(list(tokens)[:size])}
    found = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.add_special_tokens(SPECIAL)
    return found


def save(
    folder: Path, core: Tokenizer, *, rows: int = 0, tied: bool = False, **more: Any
) -> Checkpoint:
    """Save a tiny random Llama with a tokenizer."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core,
        **{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
        | more,
    )
    wrapped.save_pretrained(folder)
    size = rows or 1 + max(core.get_vocab(with_added_tokens=True).values())
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=core.token_to_id("<s>"),
        eos_token_id=core.token_to_id("</s>"),
        pad_token_id=core.token_to_id("<pad>"),
        initializer_range=0.3,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(len(folder.name) + size)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return Checkpoint.open(folder, folder.name)


def mix(
    parents: list[Checkpoint],
    weights: list[float],
    *,
    name: str = "union",
    base: Checkpoint | None = None,
    **options: str,
) -> Recipe:
    def layer(block: int | None) -> Layer:
        sources = tuple(
            Source(parent.reference, block, {"weight": weight})
            for parent, weight in zip(parents, weights, strict=True)
        )
        if base is None:
            return Layer("linear", sources)
        return Layer("task_arithmetic", sources, Source(base.reference, block))

    blocks = tuple(layer(i) for i in range(2))
    return Recipe(
        host=(base or parents[0]).reference,
        layers={"model.layers": blocks},
        embeddings=layer(None),
        head=layer(None),
        dtype="float32",
        tokenizer=name,
        options=options,
    )


def named(*parents: Checkpoint) -> dict[str, Checkpoint]:
    return {parent.reference: parent for parent in parents}


def vocabulary(folder: Path) -> dict[str, int]:
    core: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return dict(core.get_vocab(with_added_tokens=True))


PAIRS = {
    "bpe": (bpe(ENGLISH, 290), bpe(FRENCH, 285)),
    "unigram": (trained("Unigram", ENGLISH, 40), trained("Unigram", FRENCH, 45)),
    "wordpiece": (trained("WordPiece", ENGLISH, 50), trained("WordPiece", FRENCH, 55)),
    "words": (words(ENGLISH, 30), words(FRENCH, 30)),
}


@pytest.mark.parametrize(("kind", "tied"), [*((kind, False) for kind in PAIRS), ("bpe", True)])
@pytest.mark.parametrize("which", [0, 1])
def test_union_with_weights_1_and_0_gives_each_parent_its_own_logits(
    kind: str, tied: bool, which: int, tmp_path: Path
) -> None:
    parents = [
        save(tmp_path / name, core, tied=tied) for name, core in zip("ab", PAIRS[kind], strict=True)
    ]
    weights = [float(which == 0), float(which == 1)]
    write(mix(parents, weights), named(*parents), tmp_path / "out")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    own = AutoModelForCausalLM.from_pretrained(parents[which].folder).eval()
    new, old = vocabulary(tmp_path / "out"), vocabulary(parents[which].folder)
    assert set(new) == set(vocabulary(parents[0].folder)) | set(vocabulary(parents[1].folder))
    assert sorted(new.values()) == list(range(len(new)))
    assert merged.get_input_embeddings().weight.shape[0] == len(new)
    by_id = {i: token for token, i in old.items()}
    for text in (ENGLISH, FRENCH)[which]:
        ids = AutoTokenizer.from_pretrained(parents[which].folder)(text)["input_ids"]
        moved = [new[by_id[i]] for i in ids]
        with torch.no_grad():
            expected = own(torch.tensor([ids])).logits[0]
            found = merged(torch.tensor([moved])).logits[0]
        columns = [new[by_id[i]] for i in range(len(old))]
        torch.testing.assert_close(found[:, columns], expected, rtol=1e-5, atol=1e-6)
    if which == 0:  # the host keeps its ids and its tokenization, and tokens of both are used
        assert {token: new[token] for token in old} == old
        loaded, known = map(AutoTokenizer.from_pretrained, (tmp_path / "out", parents[0].folder))
        for text in ENGLISH if kind in ("bpe", "words") else ():
            assert loaded(text)["input_ids"] == known(text)["input_ids"]
            ids = known(text)["input_ids"]
            assert loaded.decode(ids) == known.decode(ids)
        french = loaded.convert_ids_to_tokens(loaded(FRENCH[0])["input_ids"])
        assert any(token not in old for token in french)


def test_added_tokens_are_not_split_and_stay_special(tmp_path: Path) -> None:
    core = bpe(ENGLISH, 290)
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    a = save(tmp_path / "a", bpe(ENGLISH, 290))
    b = save(tmp_path / "b", core, eos_token="<|im_end|>")
    plan = plan_tokenizer(mix([a, b], [1, 1]), named(a, b))
    assert any("eos_token is '</s>' in 'a' and '<|im_end|>' in 'b'" in n for n in plan.notes)
    notes = write(mix([a, b], [1, 0]), named(a, b), tmp_path / "out")
    assert notes == plan.notes
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = loaded("<|im_start|>the cat<|im_end|>")["input_ids"]
    assert (ids[0], ids[-1]) == (290, 291)
    assert loaded.decode(ids, skip_special_tokens=True) == "the cat"
    assert loaded.eos_token == "</s>"
    rows = load_file(tmp_path / "out/model.safetensors")["lm_head.weight"]
    theirs = load_file(b.folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(rows[290:292], theirs[290:292])


def test_a_named_tokenizer_gives_its_ids_and_other_tokens_are_lost(tmp_path: Path) -> None:
    a = save(tmp_path / "a", PAIRS["bpe"][0])
    data = json.loads(bpe(FRENCH, 280).to_str())
    order = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get, reverse=True)
    data["model"]["vocab"] = {token: i for i, token in enumerate(order)}
    for item in data["added_tokens"]:
        item["id"] = data["model"]["vocab"][item["content"]]
    b = save(tmp_path / "b", Tokenizer.from_str(json.dumps(data)), chat_template="{{ 'b' }}")
    recipe = mix([a, b], [0, 1], name="b")
    assert any("tokens of 'a'" in note for note in plan_tokenizer(recipe, named(a, b)).notes)
    write(recipe, named(a, b), tmp_path / "out")
    ours = load_file(tmp_path / "out/model.safetensors")
    theirs = load_file(b.folder / "model.safetensors")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    config = json.loads((tmp_path / "out/config.json").read_text())
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    own = json.loads((b.folder / "config.json").read_text())
    for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
        assert config[key] == own[key]
    assert generation["eos_token_id"] == own["eos_token_id"]
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert loaded(FRENCH[0]) == AutoTokenizer.from_pretrained(b.folder)(FRENCH[0])
    assert loaded.chat_template == "{{ 'b' }}"


def test_padding_rows_never_have_the_highest_logit(tmp_path: Path) -> None:
    parents = [save(tmp_path / name, core) for name, core in zip("ab", PAIRS["words"], strict=True)]
    recipe = mix(parents, [0.5, 0.5], pad_to_multiple_of="64")
    write(recipe, named(*parents), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = vocabulary(tmp_path / "out")
    assert model.get_output_embeddings().weight.shape[0] == 64 == model.config.vocab_size
    assert len(tokens) < 64
    with torch.no_grad():
        logits = model(torch.arange(len(tokens))[None]).logits[0]
    assert int(logits.argmax(-1).max()) < len(tokens)


def test_rows_without_a_token_are_kept_and_tokens_without_a_row_are_missing(tmp_path: Path) -> None:
    core = bpe(ENGLISH, 290)
    wide, b = save(tmp_path / "wide", core, rows=320), save(tmp_path / "b", core)
    write(mix([wide, b], [1, 0]), named(wide, b), tmp_path / "out")
    ours, theirs = (load_file(it / "model.safetensors") for it in (tmp_path / "out", wide.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    core.add_special_tokens(["<extra>"])
    a, c = save(tmp_path / "a", core, rows=290), save(tmp_path / "c", core)
    notes = write(mix([a, c], [1, 0]), named(a, c), tmp_path / "more")
    assert any("'a' has 290 rows, and its tokens with ids beyond them (1 in" in it for it in notes)
    ours, theirs = (load_file(it / "model.safetensors") for it in (tmp_path / "more", c.folder))
    assert len(ours["lm_head.weight"]) == 291
    assert torch.equal(ours["lm_head.weight"][290], theirs["lm_head.weight"][290])


def test_missing_rows_come_from_the_base_the_only_parent_or_the_average(tmp_path: Path) -> None:
    more = bpe(ENGLISH, 290)
    more.add_special_tokens(["<x>"])
    plain = bpe(ENGLISH, 290)
    a, b, c = (save(tmp_path / n, core) for n, core in zip("abc", (plain, more, more), strict=True))
    rows = {
        p.reference: load_file(p.folder / "model.safetensors")["lm_head.weight"] for p in (b, c)
    }

    def filled(recipe: Recipe) -> torch.Tensor:
        plan = plan_tokenizer(recipe, named(a, b, c))
        assert plan.rows is not None
        known = {"a": load_file(a.folder / "model.safetensors")["lm_head.weight"], **rows}
        return plan.rows.rows("a", known.__getitem__)[290]

    torch.testing.assert_close(filled(mix([a, b, c], [1, 1, 1])), (rows["b"] + rows["c"])[290] / 2)
    assert torch.equal(filled(mix([a, c], [1, 1])), rows["c"][290])
    assert torch.equal(filled(mix([a, b], [1, 1], base=c)), rows["c"][290])
    zero = json.dumps({"<x>": {"source": {"kind": "zero"}}})
    assert not filled(mix([a, b, c], [1, 1, 1], tokens=zero)).any()
    other = {"kind": "model_token", "model": "b", "token_id": 7}
    chosen = json.dumps({"<x>": {"source": other}})
    assert torch.equal(filled(mix([a, b, c], [1, 1, 1], tokens=chosen)), rows["b"][7])
    forced = json.dumps({"</s>": {"source": "c", "force": True}})
    plan = plan_tokenizer(mix([a, b, c], [1, 1, 1], tokens=forced), named(a, b, c))
    assert plan.rows is not None
    end = more.token_to_id("</s>")
    for parent in "bc":
        assert torch.equal(plan.rows.rows(parent, rows.__getitem__)[end], rows["c"][end])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": '{"<nothing>": {"source": "a"}}'}, "in no tokenizer"),
        ({"tokens": '{"<s>": {"sorce": "a"}}'}, "Did you mean 'source'"),
        ({"tokens": '{"<s>": {"source": "z"}}'}, "allowed are the parents"),
        ({"tokens": '{"<s>": {"source": {"kind": "one"}}}'}, "kind: zero"),
        ({"tokens": "{"}, "option `tokens`"),
        ({"tokens": "[1]"}, "must be a mapping"),
        ({"tokens": '{"<s>": 1}'}, r"tokens\.<s>.*must be a mapping"),
        ({"tokens": r'{"\ud800": {"source": "a"}}'}, "unpaired surrogate"),
        (
            {"tokens": '{"<s>": {"source": {"kind": "model_token", "model": "a", "token": "q?"}}}'},
            "no row for the token",
        ),
        ({"pad_to_multiple_of": "-8"}, "whole number above 0"),
        ({"chat_template": "chatlm"}, "allowed are auto, chatml"),
        ({"pad_to_multiple": "8"}, "Did you mean 'pad_to_multiple_of'"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, str], message: str, tmp_path: Path) -> None:
    a, b = (save(tmp_path / n, core) for n, core in zip("ab", PAIRS["words"], strict=True))
    with pytest.raises(RecipeError, match=message):
        plan_tokenizer(mix([a, b], [1, 1], **options), named(a, b))


def test_tokenizers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    a = save(tmp_path / "a", PAIRS["bpe"][0])
    other = bpe(FRENCH, 290)
    b = save(tmp_path / "b", other)
    with pytest.raises(CheckpointError, match=r"id \d+ is the token .* set `tokenizer: union`"):
        plan_tokenizer(mix([a, b], [1, 1], name="base"), named(a, b))
    other.pre_tokenizer = pre_tokenizers.ByteLevel(use_regex=False)
    c = save(tmp_path / "c", other)
    with pytest.raises(CheckpointError, match="their pre_tokenizer differs"):
        plan_tokenizer(mix([a, c], [1, 1]), named(a, c))
    d = save(tmp_path / "d", PAIRS["unigram"][0])
    with pytest.raises(CheckpointError, match=r"spell their tokens differently"):
        plan_tokenizer(mix([a, d], [1, 1]), named(a, d))
    (b.folder / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"'b' has no tokenizer.json"):
        plan_tokenizer(mix([a, b], [1, 1]), named(a, b))
    with pytest.raises(RecipeError, match="`tokenizer` is 'z'; allowed are base, union, a"):
        plan_tokenizer(mix([a, c], [1, 1], name="z"), named(a, c))


def save_words(folder: Path, names: list[str]) -> Checkpoint:
    """Save a model whose tokens are these and some special ones, in this order."""
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *names])}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(SPECIAL)
    return save(folder, core, rows=16)


@pytest.mark.parametrize(
    ("host", "first", "second", "message"),
    [
        ("cat on", "cat on", "cat mat", "id 5 is .* 'on' in 'host' and 'mat' in 'y'"),
        ("cat on", "on cat", "", "id 4 is the token 'cat' in 'host' and 'on' in 'x'"),
        # The host has neither token, but the row would still be a mixture of two tokens.
        ("cat", "cat <a>", "cat <b>", "id 5 is .* '<a>' in 'x' and '<b>' in 'y'"),
        ("cat", "le cat", "", "id 4 is the token 'cat' in 'host' and 'le' in 'x'"),
        ("[unused1] cat", "cat", "", "token 'cat' has the id 5 in 'host' and 4 in 'x'"),
        ("cat", "cat <tool>", "cat", None),
        ("cat <|reserved_special_token_7|>", "cat <|im_start|>", "cat", None),
        ("cat [unused0]", "cat <a>", "cat [control_12] on", None),
    ],
)
def test_parents_merged_by_id_must_have_the_same_token_at_an_id(
    host: str, first: str, second: str, message: str | None, tmp_path: Path
) -> None:
    parents = [
        save_words(tmp_path / name, words.split())
        for name, words in (("host", host), ("x", first), ("y", second))
    ]
    bare = save_words(tmp_path / "bare", ["nothing", "alike"])
    (bare.folder / "tokenizer.json").unlink()
    parents = [*parents, bare]
    recipe = mix(parents, [1, 1, 1, 1], name="base")
    if message is None:
        assert plan_tokenizer(recipe, named(*parents)).rows is None
        return
    with pytest.raises(CheckpointError, match=f"{message}.*`tokenizer: union`.*`tokenizer: host`"):
        plan_tokenizer(recipe, named(*parents))


def test_an_added_token_can_share_the_id_of_a_token_of_the_model(tmp_path: Path) -> None:
    plain = save_words(tmp_path / "plain", ["cat"])
    renamed = save_words(tmp_path / "renamed", ["cat"])
    file = renamed.folder / "tokenizer.json"
    data = json.loads(file.read_text())
    data["added_tokens"].append({**data["added_tokens"][0], "id": 4, "content": "<|cat|>"})
    file.write_text(json.dumps(data))
    recipe = mix([plain, renamed], [1, 1], name="base")
    assert plan_tokenizer(recipe, named(plain, renamed)).rows is None


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("auto", "{{ 'b' }}"),
        ("a", "{{ 'a' }}"),
        ("{{ 'mine' }}", "{{ 'mine' }}"),
        (None, "{{ 'a' }}"),
    ],
)
def test_chat_templates(wanted: str | None, expected: str, tmp_path: Path) -> None:
    core = PAIRS["words"][0]
    parents = [
        save(tmp_path / name, core, chat_template=f"{{{{ '{text}' }}}}")
        for name, text in zip("abc", "abb", strict=True)
    ]
    options = {"chat_template": wanted} if wanted else {}
    recipe = mix(parents, [1, 1, 1], name="base", **options)
    write(recipe, named(*parents), tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == expected
    assert tokenizer(named(*parents), recipe).chat_template == expected


def test_all_candidates_of_a_search_have_one_vocabulary(tmp_path: Path) -> None:
    cores = (bpe(ENGLISH, 290), bpe(FRENCH, 285), bpe(FRENCH + ENGLISH, 300))
    a, b, c = (save(tmp_path / name, core) for name, core in zip("abc", cores, strict=True))
    plans = []
    for parents in ([a, b, c], [c, b], [a], [c]):
        recipe = replace(mix(parents, [1.0] * len(parents)), host="a", vocabulary=("a", "b", "c"))
        assert set(recipe.parents) == {"a", "b", "c"}
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        plans.append(plan_tokenizer(recipe, named(a, b, c)))
    first = plans[0].rows
    assert first is not None
    for plan in plans[1:]:
        assert plan.files == plans[0].files
        assert plan.rows is not None
        assert (plan.rows.index, plan.rows.filling) == (first.index, first.filling)


def test_mergekit_can_only_express_the_vocabulary_of_merged_parents(tmp_path: Path) -> None:
    a, b = (save(tmp_path / name, core) for name, core in zip("ab", PAIRS["bpe"], strict=True))
    c = save(tmp_path / "c", PAIRS["bpe"][0])
    fixed = replace(mix([c], [1.0]), host="a", vocabulary=("a", "c"))
    assert "source: union" in express(fixed, named(a, c))
    wider = replace(mix([c], [1.0]), host="a", vocabulary=("a", "b", "c"))
    with pytest.raises(RecipeError, match="parents that it does not merge"):
        express(wider, named(a, b, c))
