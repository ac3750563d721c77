"""Drawing tokens at random, such that a text does not depend on what is generated beside it.

Each text has a seed and draws from a random generator of its own. transformers' own classes change
the probabilities (temperature, top_k, top_p, min_p), in the order of `generate`. So a text is the
one that `generate` gives for its prompt alone, if torch has been seeded with the seed of the text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.errors import CandidateError, ConfigError, one_line

if TYPE_CHECKING:
    import torch

SETTINGS = ("temperature", "top_k", "top_p", "min_p")
"""The `generation_kwargs` of a task that say how tokens are drawn."""

_TOP_K = 50  # of transformers, where neither the task nor the model sets it


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: divides the logits; above 0. At 1, tokens have the model's probabilities.
        top_k: only so many of the most likely tokens can be drawn; 0: all.
        top_p: only the most likely tokens that together have this probability can be drawn; above
            0, at most 1.
        min_p: only tokens with at least this share of the highest probability can be drawn; None:
            all.
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], defaults: Any, task: str) -> Sampling:
        """Return what the `generation_kwargs` of a task ask for.

        Args:
            options: the `generation_kwargs`.
            defaults: the model's generation config, which decides what they leave open.
            task: name of the task, for the error.

        Raises:
            ConfigError: transformers does not take one of the values.
        """

        def setting(name: str) -> Any:
            own = options.get(name)
            return getattr(defaults, name, None) if own is None else own

        top_k, top_p, min_p = setting("top_k"), setting("top_p"), setting("min_p")
        try:
            found = cls(
                float(options.get("temperature") or 0.0),  # the model's is not used by lm-eval
                _TOP_K if top_k is None else int(top_k),
                1.0 if top_p is None else float(top_p),
                None if min_p is None else float(min_p),
            )
            found.warpers()
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"objectives: task {task!r} samples texts (do_sample: true), but its "
                f"generation_kwargs cannot be used ({one_line(error).rstrip('.')}); set "
                "temperature to a number above 0, or do_sample to false."
            ) from error
        return found

    def warpers(self) -> Any:
        """Return transformers' logits processors for these settings, in the order of `generate`.

        Raises:
            ValueError: a setting is out of its range.
        """
        from transformers import (
            LogitsProcessorList,
            MinPLogitsWarper,
            TemperatureLogitsWarper,
            TopKLogitsWarper,
            TopPLogitsWarper,
        )

        found = LogitsProcessorList()
        if self.temperature != 1.0:
            found.append(TemperatureLogitsWarper(self.temperature))
        if self.top_k != 0:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            found.append(TopPLogitsWarper(self.top_p))
        if self.min_p is not None:
            found.append(MinPLogitsWarper(self.min_p))
        return found


def drawer(
    sampling: Sampling, seeds: Sequence[int], device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]:
    """Return what draws the next tokens of the texts of a batch.

    It gets the tokens that the model has just read, (rows, n); the logits, (rows, vocabulary)
    float32; and the text of the batch that each row belongs to. It returns a token for each row, or
    raises a CandidateError if the logits are NaN or infinite.

    Args:
        seeds: the seed of each text.
    """
    import torch

    warpers = sampling.warpers()
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(tokens: torch.Tensor, logits: torch.Tensor, texts: Sequence[int]) -> torch.Tensor:
        probabilities = warpers(tokens, logits).softmax(-1)
        if bool(probabilities.isnan().any()):
            raise CandidateError("The model's logits are not numbers (NaN).")
        drawn = [
            torch.multinomial(row, 1, generator=generators[text])
            for row, text in zip(probabilities, texts, strict=True)
        ]
        return torch.cat(drawn)

    return draw


def is_sampled(options: Mapping[str, Any]) -> bool:
    """Return whether a task's `generation_kwargs` ask for sampling, as lm-eval reads them."""
    asked = options.get("do_sample")
    return float(options.get("temperature") or 0.0) > 0 if asked is None else bool(asked)


def seed_of(name: str) -> int:
    """Return a seed for the text of this name, 0 to 2^63 - 1, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
