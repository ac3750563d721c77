"""Generation that drops finished rows from the batch, with the texts of lm-eval's HFLM.

A row ends where it ends in lm-eval at batch size 1: at an end token of the model's generation
config, at a stop sequence among the last tokens, or at the maximum number of new tokens.

Each text that is drawn has a seed and a random generator of its own, so it does not depend on what
is generated beside it: it is the one that `generate` gives for its prompt alone, with that seed.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from functools import cache
from typing import Any, Self, TypeAlias

import torch

from evomerge.compat.transformers import cache_arguments
from evomerge.errors import CandidateError
from evomerge.evaluation.inference.rows import MASKED, Batching

Draw: TypeAlias = Callable[[torch.Tensor, torch.Tensor, Sequence[int]], torch.Tensor]
"""Returns the next tokens, see `drawer`."""

_LOOK_BACK = 2  # a stop sequence may take 2 tokens more than its own encoding, as in lm-eval

_KNOWN = {
    # Implemented here, or lm-eval passes values of its own.
    *("eos_token_id", "pad_token_id", "max_length", "use_cache"),
    *("do_sample", "temperature", "top_k", "top_p"),
    # Read only without a prompt, with an encoder, for other results.
    *("bos_token_id", "decoder_start_token_id", "output_attentions", "output_hidden_states"),
    # Where the config comes from.
    *("transformers_version", "_from_model_config", "_commit_hash", "_original_object_hash"),
}
"""Settings of `generation_config.json` with which our own generation gives lm-eval's texts."""

_NEUTRAL = {"repetition_penalty": 1, "num_beams": 1}
"""Settings that are often given with the value that changes no text."""


def unsupported_setting(settings: Any) -> str | None:
    """Return a setting of a generation config that our own generation does not support, or None.

    lm-eval generates with transformers' `generate`, which reads `generation_config.json`. Our own
    generation may be used only if each setting is known; otherwise lm-eval itself generates.
    """
    default = vars(type(settings)())
    name: str
    for name, value in vars(settings).items():
        if name not in _KNOWN and value not in (None, default.get(name), _NEUTRAL.get(name)):
            return name
    return None


SETTINGS = ("temperature", "top_k", "top_p")
"""The `generation_kwargs` of a task that say how our own generation draws tokens."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    `temperature` (above 0) divides the logits. Only the `top_k` most likely tokens (0: all), and
    those that together have the probability `top_p` (above 0, at most 1), can be drawn.
    """

    temperature: float
    top_k: int = 0
    top_p: float = 1.0

    @classmethod
    def of(cls, options: Mapping[str, Any], defaults: Any) -> Self:
        """Return what the `generation_kwargs` of a task ask for.

        The model's generation config, `defaults`, decides what they leave open.

        Raises:
            ValueError, TypeError: transformers does not take one of the values.
        """

        def setting(name: str, else_: Any) -> Any:
            values = options.get(name), getattr(defaults, name, None), else_
            return next(value for value in values if value is not None)

        sampling = cls(
            float(options.get("temperature") or 0.0),  # the model's is not used by lm-eval
            int(setting("top_k", 50)),  # as in transformers
            float(setting("top_p", 1.0)),
        )
        sampling.warpers()
        return sampling

    def warpers(self) -> Any:
        """Return transformers' logits processors for these settings, in the order of `generate`.

        Raises:
            ValueError: a setting is out of its range.
        """
        import transformers as hf

        warpers: list[tuple[bool, Any, Any]] = [
            (self.temperature != 1.0, hf.TemperatureLogitsWarper, self.temperature),
            (self.top_k != 0, hf.TopKLogitsWarper, self.top_k),
            (self.top_p < 1.0, hf.TopPLogitsWarper, self.top_p),
        ]
        return hf.LogitsProcessorList(kind(value) for is_used, kind, value in warpers if is_used)


def drawer(sampling: Sampling, seeds: Sequence[int], device: torch.device) -> Draw:
    """Return what draws the next tokens of the texts of a batch, each with its own seed.

    It gets the tokens that the model has just read, (rows, n); the logits, (rows, vocabulary)
    float32; and the text of the batch that each row belongs to. It returns a token for each row, or
    raises a CandidateError if the logits are NaN or infinite.
    """
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
    sampled = options.get("do_sample")
    return float(options.get("temperature") or 0.0) > 0 if sampled is None else bool(sampled)


def seed_of(name: str) -> int:
    """Return a seed for the text of this name, 0 to 2^63 - 1, the same in every process."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Prompt:
    """A tokenised prompt, and when generation stops.

    Attributes:
        tokens: the prompt, truncated from the left so that `limit` more tokens fit.
        stops: the stop sequences; the text of the end token is one of them.
        limit: maximum number of new tokens.
        sampling: how tokens are drawn, by `seed`; None: each is the likeliest one.
    """

    tokens: tuple[int, ...]
    stops: tuple[str, ...]
    limit: int
    sampling: Sampling | None = None
    _: KW_ONLY
    seed: int = 0


def stop_detector(tokenizer: Any, stops: Sequence[str]) -> Callable[[Sequence[int]], bool]:
    """Return whether the text of the last few of some tokens contains a stop sequence."""
    encoded = [len(tokenizer.encode(stop, add_special_tokens=False)) for stop in stops]
    width = max(encoded, default=0) + _LOOK_BACK

    @cache
    def is_in(ending: tuple[int, ...]) -> bool:
        text = tokenizer.decode(ending)
        return any(stop in text for stop in stops)

    return lambda tokens: is_in(tuple(tokens[-width:]))


def make_batches(prompts: Sequence[Prompt], batching: Batching) -> list[list[int]]:
    """Return batches of indices into `prompts`.

    The prompts of a batch have similar lengths, and the same stops, limit and sampling. A batch
    takes one forward pass for each new token, so one more costs the overhead of `limit` passes.
    Padding is on the left, so attention needs a mask, which makes it slower.
    """
    kinds: dict[tuple[tuple[str, ...], int, Sampling | None], list[int]] = {}
    for number, prompt in enumerate(prompts):
        kinds.setdefault((prompt.stops, prompt.limit, prompt.sampling), []).append(number)
    batches = []
    for (_, limit, _), numbers in kinds.items():
        wide = replace(batching, tokens=batching.generated, overhead=batching.overhead * limit)
        groups = wide.cut([len(prompts[n].tokens) + limit for n in numbers], MASKED)
        batches += [[numbers[i] for i in group] for group in groups]
    return batches


def continue_prompts(
    model: Any,
    prompts: Sequence[Prompt],
    stops: Callable[[Sequence[int]], bool],
    pad: int,
    draw: Draw | None = None,
) -> list[list[int]]:
    """Return the new tokens of each prompt of one batch, the one that ended it included.

    `draw` takes the place of the prompts' sampling.

    Raises:
        CandidateError: the first logits are NaN, or any if tokens are drawn.
    """
    from transformers import DynamicCache

    device, ends, limit = model.device, end_tokens(model), prompts[0].limit
    length = max(len(prompt.tokens) for prompt in prompts)
    pads = [length - len(prompt.tokens) for prompt in prompts]
    lines = [[pad] * count + [*p.tokens] for count, p in zip(pads, prompts, strict=True)]
    tokens = torch.tensor(lines, device=device)
    mask = torch.tensor([[0] * count + [1] * (length - count) for count in pads], device=device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    generated: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # the prompt that each row of the tensors belongs to
    cache_argument, last = cache_arguments(model.__class__)
    states = DynamicCache(config=model.config.get_text_config())
    options: dict[str, Any] = {cache_argument: states, "use_cache": True, **last}
    sampling, seeds = prompts[0].sampling, [prompt.seed for prompt in prompts]
    if sampling is not None:
        draw = drawer(sampling, seeds, device)
    # For the slice `hidden[:, -1:, :]` of several rows, torch copies a weight without a gradient
    # for each row: with 49,000 tokens and 100 rows, gigabytes and four times the CPU time.
    head = model.get_output_embeddings() or torch.nn.Identity()
    hook = head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:]))
    with torch.inference_mode(), hook:
        for step in range(limit):
            inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
            logits = model(**inputs, **options).logits[:, -1].to(device).float()
            if step == 0 and bool(logits.isnan().any()):
                raise CandidateError("The model's logits are not numbers (NaN).")
            following = logits.argmax(-1) if draw is None else draw(tokens, logits, rows)
            going = []  # lines of texts that have not ended
            for line, (row, token) in enumerate(zip(rows, following.tolist(), strict=True)):
                generated[row].append(token)
                if token not in ends and not stops(generated[row]):
                    going.append(line)
            if not going or step + 1 == limit:
                break
            if len(going) < len(rows):
                index = torch.tensor(going)  # on the CPU: layers may be on several devices
                states.batch_select_indices(index)
                following, mask, positions = following[index], mask[index], positions[index]
                rows = [rows[line] for line in going]
            tokens = following[:, None]
            positions = positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
    return generated


def end_tokens(model: Any) -> set[int]:
    """Return the end tokens of the model's generation config."""
    ends = model.generation_config.eos_token_id
    return set() if ends is None else set(ends) if isinstance(ends, (list, tuple)) else {ends}


def continue_for_check(
    model: Any, prompts: Sequence[Prompt], pad: int
) -> list[tuple[list[int], torch.Tensor]]:
    """Return the new tokens of each prompt of one batch, and the logits behind them.

    The latter are (new, vocabulary), float32. No token ends a text; of several texts, the last but
    one ends with its second token, so that a row is dropped.
    """
    seen: list[list[torch.Tensor]] = [[] for _ in prompts]
    turns, turn = itertools.count(1), 2 * len(prompts) - 1
    ends = torch.tensor(sorted(end_tokens(model)), dtype=torch.int64, device=model.device)

    def draw(_: torch.Tensor, logits: torch.Tensor, texts: Sequence[int]) -> torch.Tensor:
        for text, line in zip(texts, logits, strict=True):
            seen[text].append(line)
        known = ends[ends < logits.shape[-1]]
        return logits.index_fill(-1, known, -torch.inf).argmax(-1)

    generated = continue_prompts(model, prompts, lambda _: next(turns) == turn > 1, pad, draw)
    return list(zip(generated, map(torch.stack, seen), strict=True))


def plain_logits(model: Any, prompt: Prompt, generated: Sequence[int]) -> torch.Tensor:
    """Return the logits that predict each new token, (new, vocabulary) float32, without a cache."""
    tokens = torch.tensor([[*prompt.tokens, *generated]], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits[0, len(prompt.tokens) - 1 : -1]
    return torch.as_tensor(logits.float())


def is_greedy_up_to_rounding(model: Any, prompt: Prompt, generated: Sequence[int]) -> bool:
    """Return whether each new token has the highest logit of its position, up to rounding.

    At a near tie either token is right, and behind it two texts cannot be compared.
    """
    logits = plain_logits(model, prompt, generated)
    chosen = logits.gather(-1, torch.tensor(generated, device=logits.device)[:, None])[:, 0]
    tolerance = 1e-4 if model.dtype == torch.float32 else 0.02
    gap = logits.max(-1).values - chosen
    return bool((gap <= tolerance * logits.abs().amax(-1)).all())
