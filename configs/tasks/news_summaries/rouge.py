"""ROUGE-L of a summary, for lm-eval."""

from __future__ import annotations

from typing import Any

from rouge_score.rouge_scorer import RougeScorer

_SCORER = RougeScorer(["rougeL"], use_stemmer=True)


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return the F1 of ROUGE-L, 0 to 1, of one document's summary."""
    return {"rougeL": _SCORER.score(doc["highlights"], results[0])["rougeL"].fmeasure}
