"""Texts that the base of a search has written itself: how much worse a merge predicts them.

The base draws them at temperature 1, so the mean of log p(token | base) - log p(token | merge)
estimates the Kullback-Leibler divergence of the merge from the base, in nats a token, on what the
base would say; every text counts alike, a short one too. A base with a chat template first writes
what a person asks, after the beginning of the template, and then the answer (Xu et al. 2024,
Magpie, arXiv 2406.08464).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from evomerge.errors import CandidateError
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.evaluation.tasks.objective import Measured, SingleTask, in_short
from evomerge.scores import BASE_TEXTS, NLL, Example

if TYPE_CHECKING:
    from evomerge.evaluation.inference.generation import Prompt

QUESTION, LENGTH = 48, 64
"""Tokens at most of what a person asks, and of a text."""

_BATCH = 16  # texts that are written together
_SCORED = 4  # texts that are scored together
_MARK = "\x02question\x03"  # what no template has


@dataclass(frozen=True)
class Text:
    """A text of the base, with what comes before it.

    Attributes:
        prompt, text: for people.
        before, tokens: the tokens of both, as the base's tokenizer names them.
    """

    prompt: str
    text: str
    before: tuple[str, ...]
    tokens: tuple[str, ...]

    def ids(self, tokenizer: Any) -> tuple[list[int], list[int]]:
        """Return the tokens as ids of a tokenizer; with other tokens it cuts the text anew."""
        parts = []
        for text, tokens in ((self.prompt, self.before), (self.text, self.tokens)):
            ids = tokenizer.convert_tokens_to_ids(list(tokens))
            if None in ids or tokenizer.convert_ids_to_tokens(ids) != list(tokens):
                ids = tokenizer.encode(text, add_special_tokens=False)
            parts.append(ids)
        return parts[0], parts[1]


def to_lines(texts: Sequence[Text]) -> str:
    """Return texts as lines of JSON."""
    return "".join(json.dumps(asdict(text), ensure_ascii=False) + "\n" for text in texts)


def from_lines(content: str) -> tuple[Text, ...]:
    """Return the texts in lines of `to_lines`."""
    rows = (json.loads(line) for line in content.split("\n") if line)
    return tuple(
        Text(row["prompt"], row["text"], tuple(row["before"]), tuple(row["tokens"])) for row in rows
    )


def digest_of(content: str) -> str:
    """Return the SHA-256 of the lines of texts."""
    return hashlib.sha256(content.encode()).hexdigest()


class BaseTexts(SingleTask):
    """The negative log-likelihood of the base's texts, in nats a token of the base's tokenizer.

    Its documents are the texts of `written`, which are there when the base has written them.
    """

    is_foreign: ClassVar[bool] = False
    writes: ClassVar[bool] = True
    uses_templates: ClassVar[bool] = False

    def __init__(self, count: int) -> None:
        info = {NLL: MetricInfo(higher_is_better=False, is_mean=True)}
        super().__init__(TaskInfo(BASE_TEXTS, "rows", count, info))
        self.written: Sequence[Text] = ()

    def under(self, name: str) -> Self:
        """Return itself: its texts are the same in all splits."""
        return self

    def measure(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return the nats a token of each text; CandidateError: one is not finite.

        The logits are those of the model's dtype, their log-softmax is computed in float32.
        """
        import torch

        values = list[float]()
        for first in range(0, len(documents), _SCORED):
            texts = [self.written[document] for document in documents[first : first + _SCORED]]
            pairs = [text.ids(tokenizer) for text in texts]
            length = max(len(before) + len(ids) for before, ids in pairs)
            rows = [
                [*before, *ids] + [0] * (length - len(before) - len(ids)) for before, ids in pairs
            ]
            tokens = torch.tensor(rows, device=model.device)
            kept = [len(before) + len(ids) for before, ids in pairs]
            mask = torch.tensor([[1] * n + [0] * (length - n) for n in kept], device=model.device)
            with torch.inference_mode():
                logits = model(input_ids=tokens, attention_mask=mask, use_cache=False).logits
                for line, (text, (before, ids)) in enumerate(zip(texts, pairs, strict=True)):
                    start = len(before)
                    predicted = logits[line, start - 1 : start - 1 + len(ids)].float()
                    likely = predicted.log_softmax(-1)
                    picked = likely.gather(-1, tokens[line, start : start + len(ids), None])
                    values.append(-float(picked.sum()) / len(text.tokens))
        if any(value != value or value == float("inf") for value in values):
            raise CandidateError("A text of the base has no finite likelihood.")
        return {NLL: values}

    def example(self, task: str, document: int, values: Mapping[str, float]) -> Example:
        """Return a text of the base, which stands for an answer, too."""
        text = self.written[document]
        return in_short(task, document, (text.prompt, text.text, text.text, ""), values)


def write_texts(model: Any, tokenizer: Any, count: int, seed: int) -> tuple[Text, ...]:
    """Return texts that a model writes, drawn at temperature 1, computed in float32.

    Args:
        model: the base; its weights become float32.
        tokenizer: its tokenizer, with its chat template if it has one.
        count: number of texts at most; one that ends at once is left out.
        seed: of the search.

    Raises:
        CandidateError: the model's logits are not numbers, or it writes nothing but end tokens.
    """
    model = model.float()
    prefix, suffix = _template(tokenizer)
    texts = list[Text]()
    for first in range(0, count, _BATCH):
        numbers = range(first, min(count, first + _BATCH))
        starts = [prefix] * len(numbers)
        if suffix:
            asked = _continued(model, tokenizer, starts, QUESTION, f"{seed}/asked", numbers)
            starts = [[*prefix, *_without_ends(tokenizer, ids), *suffix] for ids in asked]
        written = _continued(model, tokenizer, starts, LENGTH, f"{seed}/written", numbers)
        for start, ids in zip(starts, written, strict=True):
            if ids:
                names = [tokenizer.convert_ids_to_tokens(part) for part in (start, ids)]
                words = [tokenizer.decode(part) for part in (start, ids)]
                texts.append(Text(words[0], words[1], tuple(names[0]), tuple(names[1])))
    if not texts:
        raise CandidateError("The base writes no text.")
    return tuple(texts)


def _template(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens before and after what a person asks; without a template the first token."""
    if tokenizer.chat_template is not None:
        message = [{"role": "user", "content": _MARK}]
        try:
            text = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
        except Exception:  # a template may refuse anything; then plain texts serve
            text = ""
        before, mark, after = text.partition(_MARK)
        parts = [tokenizer.encode(part, add_special_tokens=False) for part in (before, after)]
        if mark and all(parts):
            return parts[0], parts[1]
    known = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, 0)
    return [next(token for token in known if token is not None)], []


def _without_ends(tokenizer: Any, ids: Sequence[int]) -> list[int]:
    """Return tokens up to the first special one, which ends what a person asks."""
    special = set(tokenizer.all_special_ids)
    end = next((place for place, token in enumerate(ids) if token in special), len(ids))
    return list(ids[:end])


def _continued(
    model: Any,
    tokenizer: Any,
    starts: Sequence[Sequence[int]],
    limit: int,
    name: str,
    numbers: Sequence[int],
) -> list[list[int]]:
    from evomerge.evaluation.inference.generation import (
        Prompt,
        Sampling,
        continue_prompts,
        seed_of,
    )

    plain = Sampling(1.0)
    prompts: list[Prompt] = [
        Prompt(tuple(start), (), limit, plain, seed=seed_of(f"{name}/{number}"))
        for start, number in zip(starts, numbers, strict=True)
    ]
    pad = tokenizer.pad_token_id or 0
    return continue_prompts(model, prompts, lambda ids: False, pad)
