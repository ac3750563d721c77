"""Drawing tokens at random, such that a text does not depend on what is generated beside it.

Each text has a seed and a random generator of its own; transformers' own classes change the
probabilities. So a text is the one that `generate` gives for its prompt alone, with that seed.
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


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    `temperature` (above 0) divides the logits. Only the `top_k` most likely tokens (0: all), those
    that together have the probability `top_p` (above 0, at most 1), and those with at least the
    share `min_p` of the highest probability can be drawn.
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0
    min_p: float | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any], defaults: Any, task: str) -> Sampling:
        """Return what the `generation_kwargs` of a task ask for.

        The model's generation config, `defaults`, decides what they leave open.

        Raises:
            ConfigError: transformers does not take one of the values.
        """

        def setting(name: str, else_: Any) -> Any:
            own = options.get(name)
            own = getattr(defaults, name, None) if own is None else own
            return else_ if own is None else own

        try:
            least = setting("min_p", None)
            found = cls(
                float(options.get("temperature") or 0.0),  # the model's is not used by lm-eval
                int(setting("top_k", 50)),  # as in transformers
                float(setting("top_p", 1.0)),
                None if least is None else float(least),
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
        import transformers as hf

        wanted: list[tuple[bool, Any, Any]] = [
            (self.temperature != 1.0, hf.TemperatureLogitsWarper, self.temperature),
            (self.top_k != 0, hf.TopKLogitsWarper, self.top_k),
            (self.top_p < 1.0, hf.TopPLogitsWarper, self.top_p),
            (self.min_p is not None, hf.MinPLogitsWarper, self.min_p),
        ]
        return hf.LogitsProcessorList(kind(value) for used, kind, value in wanted if used)


def drawer(
    sampling: Sampling, seeds: Sequence[int], device: torch.device
) -> Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]:
    """Return what draws the next tokens of the texts of a batch, each with its own seed.

    It gets the tokens that the model has just read, (rows, n); the logits, (rows, vocabulary)
    float32; and the text of the batch that each row belongs to. It returns a token for each row, or
    raises a CandidateError if the logits are NaN or infinite.
    """
    import torch

    warpers = sampling.warpers()
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def draw(tokens: torch.Tensor, logits: torch.Tensor, texts: Sequence[int]) -> torch.Tensor:
        probabilities = warpers(tokens, logits).softmax(-1)
        if bool(probabilities.isnan().any()):
            raise CandidateError("The model's logits are not numbers (NaN).")
        pairs = zip(probabilities, texts, strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=generators[i]) for row, i in pairs])

    return draw


def is_sampled(options: Mapping[str, Any]) -> bool:
    """Return whether a task's `generation_kwargs` ask for sampling, as lm-eval reads them."""
    asked = options.get("do_sample")
    return float(options.get("temperature") or 0.0) > 0 if asked is None else bool(asked)


def seed_of(name: str) -> int:
    """Return a seed for the text of this name, 0 to 2^63 - 1, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1
