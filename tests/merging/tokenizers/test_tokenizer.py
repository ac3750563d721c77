"""Tokenizers of merged models: rows are matched by token, ids stay, conflicts are reported."""

import json
from dataclasses import replace

import merges
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from evomerge.errors import CheckpointError, RecipeError
from evomerge.mergekit import express
from evomerge.merging.backend import tokenizer
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe

SPECIAL = ["<s>", "</s>", "<unk>", "<pad>"]
ENGLISH = ["the cat sat on the mat and the other cat there", "then they went home together"]
FRENCH = ["le chat noir dort dans la maison", "la mer et le soleil dans le ciel noir"]


def trained(kind, texts, size):
    """Train a tokenizer of the tokenizers library."""
    before, decoder, how = {
        "BPE": (pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel(), {}),
        "Unigram": (pre_tokenizers.Metaspace(), decoders.Metaspace(), {"unk_token": "<unk>"}),
        "WordPiece": (pre_tokenizers.Whitespace(), decoders.WordPiece(), {}),
    }[kind]
    unknown = {"unk_token": "<unk>"} if kind == "WordPiece" else {}
    found = Tokenizer(getattr(models, kind)(**unknown))
    found.pre_tokenizer, found.decoder = before, decoder
    if kind == "BPE":
        how = {"initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    make = trainers.BpeTrainer if kind == "BPE" else getattr(trainers, f"{kind}Trainer")
    how |= {"vocab_size": size, "special_tokens": SPECIAL, "show_progress": False}
    found.train_from_iterator(texts, make(**how))
    return found


def bpe(texts, size):
    return trained("BPE", texts, size)


def words(texts, size=None):
    """A tokenizer of whole words, of which these and some special ones are known, in this order."""
    tokens = [*dict.fromkeys([*SPECIAL, *" ".join(texts).split()])][:size]
    found = Tokenizer(models.WordLevel({word: i for i, word in enumerate(tokens)}, "<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.add_special_tokens(SPECIAL)
    return found


def save(folder, core, *, rows=0, tied=False, **more):
    """Save a tiny random Llama with a tokenizer."""
    roles = dict(zip(("bos_token", "eos_token", "unk_token", "pad_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=core, **roles | more).save_pretrained(folder)
    size = rows or 1 + max(core.get_vocab(with_added_tokens=True).values())
    torch.manual_seed(len(folder.name) + size)
    sizes = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "initializer_range": 0.3}
    ids = {f"{role}_id": core.token_to_id(word) for role, word in roles.items()}
    config = transformers.LlamaConfig(vocab_size=size, tie_word_embeddings=tied, **sizes, **ids)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return Checkpoint.open(folder, folder.name)


def pair(folder, kind, **how):
    return [save(folder / name, it, **how) for name, it in zip("ab", PAIRS[kind], strict=True)]


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def mix(parents, weights, *, name="union", base=None, **options):
    shares = dict(zip([parent.reference for parent in parents], weights, strict=True))
    method = "task_arithmetic" if base else "linear"
    recipe = merges.every(
        base or parents[0],
        lambda i: merges.mix(shares, i, method, base and base.reference),
        dtype="float32",
        tokenizer=name,
    )
    return replace(recipe, options=options)


def named(*parents):
    return {parent.reference: parent for parent in parents}


def vocabulary(folder):
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return dict(core.get_vocab(with_added_tokens=True))


PAIRS = {
    "bpe": (bpe(ENGLISH, 290), bpe(FRENCH, 285)),
    "wordpiece": (trained("WordPiece", ENGLISH, 50), trained("WordPiece", FRENCH, 55)),
    "words": (words(ENGLISH, 30), words(FRENCH, 30)),
}


@pytest.mark.parametrize(("kind", "tied"), [*((kind, False) for kind in PAIRS), ("bpe", True)])
@pytest.mark.parametrize("which", [0, 1])
def test_union_with_weights_1_and_0_gives_each_parent_its_own_logits(kind, tied, which, tmp_path):
    parents = pair(tmp_path, kind, tied=tied)
    write_model(mix(parents, [1.0 - which, which]), named(*parents), tmp_path / "out")
    folders = (tmp_path / "out", parents[which].folder)
    merged, own = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in folders)
    loaded, known = map(AutoTokenizer.from_pretrained, folders)
    new, old = map(vocabulary, folders)
    assert set(new) == set(vocabulary(parents[0].folder)) | set(vocabulary(parents[1].folder))
    assert sorted(new.values()) == list(range(len(new)))
    assert merged.get_input_embeddings().weight.shape[0] == len(new)
    moved = [new[token] for token, _ in sorted(old.items(), key=lambda item: item[1])]
    for text in (ENGLISH, FRENCH)[which]:
        ids = torch.tensor([known(text)["input_ids"]])
        with torch.no_grad():
            found, expected = merged(torch.tensor(moved)[ids]).logits, own(ids).logits
        torch.testing.assert_close(found[..., moved], expected, rtol=1e-5, atol=1e-6)
    if which == 0:  # the host keeps its ids and its tokenization, and tokens of both are used
        assert {token: new[token] for token in old} == old
        for text in ENGLISH if kind in ("bpe", "words") else ():
            ids = known(text)["input_ids"]
            assert loaded(text)["input_ids"] == ids and loaded.decode(ids) == known.decode(ids)
        french = loaded.convert_ids_to_tokens(loaded(FRENCH[0])["input_ids"])
        assert any(token not in old for token in french)


def test_added_tokens_are_not_split_and_stay_special(tmp_path):
    core = bpe(ENGLISH, 290)
    core.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    a = save(tmp_path / "a", bpe(ENGLISH, 290))
    b = save(tmp_path / "b", core, eos_token="<|im_end|>")
    plan = plan_tokenizer(mix([a, b], [1, 1]), named(a, b))
    assert any("eos_token is '</s>' in 'a' and '<|im_end|>' in 'b'" in n for n in plan.notes)
    notes = write_model(mix([a, b], [1, 0]), named(a, b), tmp_path / "out")
    assert notes == plan.notes
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = loaded("<|im_start|>the cat<|im_end|>")["input_ids"]
    assert (ids[0], ids[-1]) == (290, 291)
    assert loaded.decode(ids, skip_special_tokens=True) == "the cat"
    assert loaded.eos_token == "</s>"
    rows = load_file(tmp_path / "out/model.safetensors")["lm_head.weight"]
    theirs = load_file(b.folder / "model.safetensors")["lm_head.weight"]
    assert torch.equal(rows[290:292], theirs[290:292])


def test_a_named_tokenizer_gives_its_ids_and_other_tokens_are_lost(tmp_path):
    a = save(tmp_path / "a", PAIRS["bpe"][0])
    data = json.loads(bpe(FRENCH, 280).to_str())
    order = sorted(data["model"]["vocab"], key=data["model"]["vocab"].get, reverse=True)
    data["model"]["vocab"] = {token: i for i, token in enumerate(order)}
    for item in data["added_tokens"]:
        item["id"] = data["model"]["vocab"][item["content"]]
    b = save(tmp_path / "b", Tokenizer.from_str(json.dumps(data)), chat_template="{{ 'b' }}")
    recipe = mix([a, b], [0, 1], name="b")
    assert any("tokens of 'a'" in note for note in plan_tokenizer(recipe, named(a, b)).notes)
    write_model(recipe, named(a, b), out := tmp_path / "out")
    ours, theirs = map(weights_of, (out, b.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    config, own = (json.loads((it / "config.json").read_text()) for it in (out, b.folder))
    generation = json.loads((out / "generation_config.json").read_text())
    for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"):
        assert config[key] == own[key]
    assert generation["eos_token_id"] == own["eos_token_id"]
    loaded, known = map(AutoTokenizer.from_pretrained, (out, b.folder))
    assert loaded(FRENCH[0]) == known(FRENCH[0]) and loaded.chat_template == "{{ 'b' }}"


def test_padding_rows_never_have_the_highest_logit(tmp_path):
    parents = pair(tmp_path, "words")
    recipe = mix(parents, [0.5, 0.5], pad_to_multiple_of="64")
    write_model(recipe, named(*parents), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    count = len(vocabulary(tmp_path / "out"))
    assert model.get_output_embeddings().weight.shape[0] == 64 == model.config.vocab_size > count
    with torch.no_grad():
        logits = model(torch.arange(count)[None]).logits[0]
    assert int(logits.argmax(-1).max()) < count


def test_rows_without_a_token_are_kept_and_tokens_without_a_row_are_missing(tmp_path):
    core = bpe(ENGLISH, 290)
    wide, b = save(tmp_path / "wide", core, rows=320), save(tmp_path / "b", core)
    write_model(mix([wide, b], [1, 0]), named(wide, b), tmp_path / "out")
    ours, theirs = map(weights_of, (tmp_path / "out", wide.folder))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    core.add_special_tokens(["<extra>"])
    a, c = save(tmp_path / "a", core, rows=290), save(tmp_path / "c", core)
    write_model(mix([a, c], [1, 0]), named(a, c), tmp_path / "more")
    ours, theirs = (weights_of(it)["lm_head.weight"] for it in (tmp_path / "more", c.folder))
    assert len(ours) == 291 and torch.equal(ours[290], theirs[290])


def test_missing_rows_come_from_the_base_the_only_parent_or_the_average(tmp_path):
    more, plain = bpe(ENGLISH, 290), bpe(ENGLISH, 290)
    more.add_special_tokens(["<x>"])
    a, b, c = (save(tmp_path / n, core) for n, core in zip("abc", (plain, more, more), strict=True))
    heads = {it.reference: weights_of(it.folder)["lm_head.weight"] for it in (a, b, c)}
    x, y, end = heads["b"][290], heads["c"][290], more.token_to_id("</s>")

    def row(i, parents=(a, b, c), parent="a", base=None, **token):
        options = {"tokens": json.dumps({"<x>" if i == 290 else "</s>": token})} if token else {}
        recipe = mix(parents, [1] * len(parents), base=base, **options)
        plan = plan_tokenizer(recipe, named(a, b, c))
        return plan.rows.rows(parent, heads.__getitem__)[i]

    torch.testing.assert_close(row(290), (x + y) / 2)
    assert torch.equal(row(290, (a, c)), y)
    assert torch.equal(row(290, (a, b), base=c), y)
    assert not row(290, source={"kind": "zero"}).any()
    seventh = {"kind": "model_token", "model": "b", "token_id": 7}
    assert torch.equal(row(290, source=seventh), heads["b"][7])
    for parent in "bc":
        assert torch.equal(row(end, parent=parent, source="c", force=True), heads["c"][end])


TOKEN = '{"<s>": {"source": {"kind": "model_token", "model": "a", "token": "q?"}}}'


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("tokens", '{"<nothing>": {"source": "a"}}', "in no tokenizer"),
        ("tokens", '{"<s>": {"sorce": "a"}}', "Did you mean 'source'"),
        ("tokens", '{"<s>": {"source": "z"}}', "model` is 'z'; allowed are a, b"),
        ("tokens", '{"<s>": {"source": {"kind": "one"}}}', "kind: zero"),
        ("tokens", "{", "option `tokens`"),
        ("tokens", "[1]", "must be a mapping"),
        ("tokens", '{"<s>": 1}', r"tokens\.<s>.*must be a mapping"),
        ("tokens", r'{"\ud800": {"source": "a"}}', "unpaired surrogate"),
        ("tokens", TOKEN, "no row for 'q"),
        ("pad_to_multiple_of", "-8", "whole number above 0"),
        ("chat_template", "chatlm", "allowed are auto, chatml"),
        ("pad_to_multiple", "8", "Did you mean 'pad_to_multiple_of'"),
    ],
)
def test_wrong_options_are_errors(option, value, message, tmp_path):
    a, b = pair(tmp_path, "words")
    with pytest.raises(RecipeError, match=message):
        plan_tokenizer(mix([a, b], [1, 1], **{option: value}), named(a, b))


def test_tokenizers_that_do_not_fit_are_refused(tmp_path):
    a = save(tmp_path / "a", PAIRS["bpe"][0])
    other = bpe(FRENCH, 290)
    b = save(tmp_path / "b", other)
    other.pre_tokenizer = pre_tokenizers.ByteLevel(use_regex=False)
    unigram = (trained("Unigram", texts, 40) for texts in (ENGLISH, FRENCH))
    c, d, e = (save(tmp_path / n, it) for n, it in zip("cde", (other, *unigram), strict=True))

    def refused(parent, kind, message, name="union"):
        with pytest.raises(kind, match=message):
            plan_tokenizer(mix([a, parent], [1, 1], name=name), named(a, parent))

    refused(b, CheckpointError, r"id \d+ is the token .* set `tokenizer: union`", "base")
    refused(c, CheckpointError, "their pre_tokenizer differs")
    refused(d, CheckpointError, "spell their tokens differently")
    with pytest.raises(CheckpointError, match="their Unigram scores differ"):
        plan_tokenizer(mix([d, e], [1, 1]), named(d, e))
    refused(c, RecipeError, "`tokenizer` is 'z'; allowed are base, union, a", "z")
    (b.folder / "tokenizer.json").unlink()
    refused(b, CheckpointError, r"'b' has no tokenizer.json")


def save_words(folder, names):
    return save(folder, words([names]), rows=16)


@pytest.mark.parametrize(
    ("host", "first", "second", "message"),
    [
        ("cat on", "cat on", "cat mat", "id 5 is .* 'on' in 'host' and 'mat' in 'y'"),
        ("cat on", "on cat", "", "id 4 is the token 'cat' in 'host' and 'on' in 'x'"),
        # The host has neither token, but the row would still be a mixture of two tokens.
        ("cat", "cat <a>", "cat <b>", "id 5 is .* '<a>' in 'x' and '<b>' in 'y'"),
        ("[unused1] cat", "cat", "", "token 'cat' has the id 5 in 'host' and 4 in 'x'"),
        ("cat", "cat <tool>", "cat", None),
        ("cat <|reserved_special_token_7|>", "cat <|im_start|>", "cat", None),
        ("cat [unused0]", "cat <a>", "cat [control_12] on", None),
    ],
)
def test_parents_merged_by_id_must_have_the_same_token_at_an_id(
    host, first, second, message, tmp_path
):
    names = {"host": host, "x": first, "y": second, "bare": "nothing alike"}
    parents = [save_words(tmp_path / name, text) for name, text in names.items()]
    (parents[-1].folder / "tokenizer.json").unlink()
    recipe = mix(parents, [1, 1, 1, 1], name="base")
    if message is None:
        assert plan_tokenizer(recipe, named(*parents)).rows is None
        return
    with pytest.raises(CheckpointError, match=f"{message}.*`tokenizer: union`.*`tokenizer: host`"):
        plan_tokenizer(recipe, named(*parents))


def test_an_added_token_can_share_the_id_of_a_token_of_the_model(tmp_path):
    plain, renamed = (save_words(tmp_path / name, "cat") for name in ("plain", "renamed"))
    file = renamed.folder / "tokenizer.json"
    data = json.loads(file.read_text())
    data["added_tokens"].append({**data["added_tokens"][0], "id": 4, "content": "<|cat|>"})
    file.write_text(json.dumps(data))
    recipe = mix([plain, renamed], [1, 1], name="base")
    assert plan_tokenizer(recipe, named(plain, renamed)).rows is None


@pytest.mark.parametrize(
    ("wanted", "expected"), [("auto", "b"), ("a", "a"), ("{{ 'mine' }}", "mine"), (None, "a")]
)
def test_chat_templates(wanted, expected, tmp_path):
    core, texts = PAIRS["words"][0], zip("abc", "abb", strict=True)
    parents = [save(tmp_path / n, core, chat_template=f"{{{{ '{text}' }}}}") for n, text in texts]
    options = {"chat_template": wanted} if wanted else {}
    recipe = mix(parents, [1, 1, 1], name="base", **options)
    write_model(recipe, named(*parents), tmp_path / "out")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out")
    for found in (loaded, tokenizer(named(*parents), recipe)):
        assert found.chat_template == f"{{{{ '{expected}' }}}}"


def test_all_candidates_of_a_search_have_one_vocabulary(tmp_path):
    cores = (bpe(ENGLISH, 290), bpe(FRENCH, 285), bpe(FRENCH + ENGLISH, 300))
    a, b, c = (save(tmp_path / name, core) for name, core in zip("abc", cores, strict=True))
    plans = []
    for parents in ([a, b, c], [c, b], [a], [c]):
        recipe = replace(mix(parents, [1.0] * len(parents)), host="a", vocabulary=("a", "b", "c"))
        assert set(recipe.parents) == {"a", "b", "c"}
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        plan = plan_tokenizer(recipe, named(a, b, c))
        plans.append((plan.files, plan.rows.index, plan.rows.filling))
    assert all(plan == plans[0] for plan in plans)


def test_mergekit_can_only_express_the_vocabulary_of_merged_parents(tmp_path):
    a, b = (save(tmp_path / name, core) for name, core in zip("ab", PAIRS["bpe"], strict=True))
    c = save(tmp_path / "c", PAIRS["bpe"][0])
    fixed = replace(mix([c], [1.0]), host="a", vocabulary=("a", "c"))
    assert "source: union" in express(fixed, named(a, c))
    wider = replace(mix([c], [1.0]), host="a", vocabulary=("a", "b", "c"))
    with pytest.raises(RecipeError, match="parents that it does not merge"):
        express(wider, named(a, b, c))
