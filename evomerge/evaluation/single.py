"""Scoring one model that is not a candidate: `evomerge evaluate`, and a parent as it is itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from evomerge.evaluation.evaluator import Documents, Evaluator
from evomerge.scores import Scores, Split


def score_single(
    evaluator: Evaluator,
    load: Callable[[], tuple[Any, Any]],
    split: Split,
    documents: Documents,
    *,
    examples: int = 0,
    ready: Callable[[Any], object] = lambda model: None,
) -> Scores:
    """Return the scores of a model with its own config, tokenizer and chat template.

    Afterwards the evaluator holds this model; call `prepare` before it scores another one.

    Args:
        evaluator: has the tasks. What it was prepared with is dropped.
        load: returns the model and its tokenizer.
        split: the split.
        documents: its documents.
        examples: number of documents of each task whose prompts and answers come with the scores.
        ready: is called with the model before it is scored.

    Raises:
        InputError: the model or the tokenizer cannot be loaded, or the tasks not be used with them.
        CandidateError: the model cannot be run on the documents.
    """

    def make() -> Any:
        evaluator.release(engine=True)
        model, tokenizer = load()
        evaluator.prepare(model, tokenizer, {split: documents})
        return model

    loaded = make()
    ready(loaded)
    evaluator.set_callbacks(make)
    scores = evaluator.score(loaded, split)
    shown = evaluator.examples(scores, split, examples)
    return replace(scores, oom_backoffs=evaluator.oom_backoffs, examples=shown)
