"""ROUGE-L of an answer over its characters, for lm-eval."""

from __future__ import annotations

from typing import Any

from rouge_score.rouge_scorer import RougeScorer


class _Characters:
    """Splits a text into its characters, without spaces."""

    def tokenize(self, text: str) -> list[str]:
        return list("".join(text.split()))


_SCORER = RougeScorer(["rougeL"], tokenizer=_Characters())


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the F1 of ROUGE-L, 0 to 1, of the answer to the first question about an image."""
    return {"rougeL": _SCORER.score(doc["qas"][0]["answer"], results[0])["rougeL"].fmeasure}
