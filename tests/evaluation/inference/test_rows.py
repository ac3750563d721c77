"""Rows: every continuation is scored after exactly its own text; prefixes, masks, generation."""

from types import SimpleNamespace

import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.evaluation.inference.generation import Prompt, continue_prompts, make_batches
from evomerge.evaluation.inference.likelihood import Batch, attention_mask
from evomerge.evaluation.inference.rows import (
    MIN_ROWS,
    MIN_TOKENS,
    Batching,
    Continuation,
    by_prefix,
    pack,
    separate,
)

TOKENS = st.lists(st.integers(3, 6), min_size=1, max_size=8).map(tuple)


@st.composite
def documents(draw):
    context, choices = draw(TOKENS), draw(st.lists(TOKENS, min_size=1, max_size=5))
    return [Continuation.of(context, choice, longest=12) for choice in choices]


@given(documents())
def test_every_continuation_reads_its_own_tokens_and_no_others(continuations):
    indices = list(range(len(continuations)))
    packed, single = pack(continuations, indices), separate(continuations, indices)
    assert sum(map(len, packed)) <= sum(map(len, single))
    for rows in (packed, single):
        assert sorted(index for row in rows for index, _, _ in row.scored) == indices
        for row in rows:
            for (index, _, targets), columns in zip(row.scored, row.columns(), strict=True):
                continuation = continuations[index]
                assert targets == continuation.targets
                last = columns[-1]
                seen = [
                    column
                    for column in range(len(row))
                    if row.branch[column] in (0, row.branch[last])
                    and row.positions[column] <= row.positions[last]
                ]
                assert tuple(row.tokens[column] for column in seen) == continuation.tokens
                assert [row.positions[column] for column in seen] == list(range(len(seen)))
                assert columns == seen[len(seen) - len(targets) :]


@given(TOKENS, TOKENS, st.integers(8, 12))
def test_long_texts_are_cut_from_the_left_as_hflm_cuts_them(context, continuation, longest):
    asked = Continuation.of(context, continuation, longest)
    whole = [*context, *continuation]
    assert list(asked.tokens) == whole[-(longest + 1) :][:-1]
    assert asked.targets == continuation


EXAMPLES = [tuple(range(k, k + MIN_TOKENS + 3 * k)) for k in range(4)]


@st.composite
def continuations(draw):
    found = []
    for _ in range(draw(st.integers(0, 12))):
        start = draw(st.sampled_from(EXAMPLES))
        start = start[: draw(st.integers(1, len(start)))]
        context = [*start, *draw(st.lists(st.integers(0, 3), max_size=4))]
        choices = st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=3), min_size=1)
        found += [Continuation.of(context, choice, 500) for choice in draw(choices)]
    return found


def whole(row, prefix):
    """Return a row with its prefix added again."""
    return (prefix + row.start, *row.branches, *row.scored)


@given(continuations(), st.booleans())
def test_prefix_and_rest_make_up_the_row(asked, packed):
    rows = (pack if packed else separate)(asked, range(len(asked))) if asked else []
    found = []
    for prefix, behind in by_prefix(rows):
        assert not prefix or (len(prefix) >= MIN_TOKENS and len(behind) >= MIN_ROWS)
        for row in behind:
            predicting = zip(row.columns(), row.scored, strict=True)
            assert all(len(columns) == len(targets) for columns, (_, _, targets) in predicting)
            found.append(whole(row, prefix))
    assert sorted(found, key=repr) == sorted((whole(row, ()) for row in rows), key=repr)


def test_one_row_that_begins_otherwise_spoils_nothing():
    examples = list(range(400))
    contexts = [[*examples, 7, i] for i in range(10)] + [[*examples[:60], 999, 5, 5]]
    rows = separate([Continuation.of(context, [1], 500) for context in contexts], range(11))
    groups = [(len(prefix), len(behind)) for prefix, behind in by_prefix(rows)]
    assert groups == [(401, 10), (0, 1)]


def test_a_mask_shows_prefix_and_own_branch_only_within_the_window():
    config = SimpleNamespace(sliding_window=3, layer_types=["full_attention", "sliding_attention"])
    config.get_text_config = lambda: config
    model = SimpleNamespace(config=config, dtype=torch.float32)
    rows = pack([Continuation((1, 2, 3, 4), (9,)), Continuation((1, 2, 5, 6), (9,))], [0, 1])
    masks = attention_mask(model, Batch.of(rows, 0, torch.device("cpu")))
    full, windowed = (masks[kind][0, 0] == 0 for kind in config.layer_types)
    assert full[5].tolist() == [True, True, False, False, True, True]
    assert windowed[5].tolist() == [False, True, False, False, True, True]
    assert full[3].tolist() == [True, True, True, True, False, False]


def test_the_head_reads_contiguous_memory():
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16}
    config = LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2, eos_token_id=None)
    model = LlamaForCausalLM(config).requires_grad_(False).train(False)
    seen, forward = [], model.lm_head.forward
    model.lm_head.forward = lambda states: seen.append(states.is_contiguous()) or forward(states)
    prompts = [Prompt((1, 2, 3), (), 3), Prompt((4, 5), (), 3)]
    found = continue_prompts(model, prompts, lambda tokens: False, 0)
    assert [len(new) for new in found] == [3, 3] and seen == [True] * 3
    assert not model.lm_head._forward_pre_hooks


def test_no_batch_is_started_to_save_padding_if_it_takes_many_passes():
    """Prompts of 10 and 20 tokens: apart, they need no padding, but twice as many passes."""
    lengths = [10] * 20 + [20] * 20
    batching = Batching(1024, None, overhead=48, generated=4096)

    def sizes(limit):
        prompts = [Prompt((1,) * length, ("\n",), limit) for length in lengths]
        return [len(batch) for batch in make_batches(prompts, batching)]

    assert sizes(24) == [40]
    assert sizes(1) == [20, 20]


def test_texts_that_end_differently_are_not_in_one_batch():
    ends = [(("\n",), 8), (("\n",), 9), (("."), 8)]
    prompts = [Prompt((1, 2), tuple(stops), limit) for stops, limit in [*ends, *ends]]
    batching = Batching(1024, None, overhead=48, generated=4096)
    assert make_batches(prompts, batching) == [[0, 3], [1, 4], [2, 5]]
