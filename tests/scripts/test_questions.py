"""The questions of the showcase: right answers, and pools that share no numbers."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import pytest
from showcase import numbers, right_answer

from scripts.real import questions
from scripts.real.questions import Pool, draw

KINDS = {
    "sums": questions.sums("en"),
    "Spanish sums": questions.sums("es"),
    "sums as JSON": questions.sums("en", json=True),
    "Spanish sums as JSON": questions.sums("es", json=True),
    "backwards": questions.backwards(),
    "backwards as JSON": questions.backwards(json=True),
    "Spanish": questions.plain("es"),
    "with and without JSON": questions.either(
        questions.plain("en", json=True), questions.plain("en")
    ),
}
POOLS: tuple[Pool, ...] = get_args(Pool)


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_is_right(kind):
    found = [item for pool in POOLS for item in draw(KINDS[kind], pool, 300, "any")]
    assert [item.answer for item in found] == [right_answer(item.prompt) for item in found]
    assert {"JSON:" in item.prompt for item in found} == (
        {True, False} if "with and without" in kind else {"JSON" in kind}
    )
    assert {item.prompt.startswith("¿") for item in found} == {"Spanish" in kind}


def test_pools_share_no_numbers_in_any_language_and_format():
    kinds = [kind for kind in KINDS if "sums" in kind or "backwards" in kind]
    seen = {
        pool: {numbers(item) for kind in kinds for item in draw(KINDS[kind], pool, 800, kind)}
        for pool in POOLS
    }
    assert all(len(found) > 300 for found in seen.values())
    for one, other in combinations(POOLS, 2):
        assert not seen[one] & seen[other]


def test_a_pool_that_is_too_small_is_refused():
    days = questions.plain("es")
    with pytest.raises(ValueError, match="only"):
        draw(days, "evaluation", 200, "any", unique=True)
    assert len(draw(days, "evaluation", 200, "any")) == 200
