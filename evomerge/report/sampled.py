"""The sentence that says which scores come from texts that were drawn at random."""

from __future__ import annotations

from collections.abc import Mapping


def sampling_note(sampled: Mapping[str, int]) -> str | None:
    """Return the sentence, or None if nothing is sampled.

    Args:
        sampled: task -> number of texts that are sampled for each document.
    """
    if not sampled:
        return None
    texts = ", ".join(f"{task} ({count} for each document)" for task, count in sampled.items())
    return (
        f"Texts are drawn at random: {texts}. Their seeds come from the search file, so evomerge "
        "repeats these scores, but lm_eval draws other texts, so its scores differ by chance."
    )
