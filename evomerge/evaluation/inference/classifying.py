"""Running models with a classification head on texts, as transformers runs them one by one.

Texts of about one length are padded on the right and go through the model together. What depends on
the tokenizer only is done once for the same texts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from evomerge.errors import CandidateError
from evomerge.evaluation.inference.batches import batching

Chat: TypeAlias = Sequence[Mapping[str, Any]]
"""Messages, each with a role and a content."""

_NO_LIMIT = 2**30
"""Tokens of an input, where neither model nor tokenizer has a limit."""


@dataclass(frozen=True)
class Input:
    """What a model reads at once: a text, or a pair of texts.

    Attributes:
        is_chat: whether it was written by a chat template, so that no special token is added.
    """

    texts: tuple[str, ...]
    is_chat: bool = False

    @classmethod
    def of_chat(cls, messages: Chat, tokenizer: Any) -> Input:
        """Return what a model reads of messages, by the tokenizer's chat template."""
        return cls((tokenizer.apply_chat_template(list(messages), tokenize=False),), is_chat=True)

    @classmethod
    def of_answer(cls, prompt: str, answer: str, tokenizer: Any) -> Input:
        """Return what a model reads of an answer: a pair of texts, if its tokenizer separates them.

        Otherwise the two are one text.
        """
        if prompt and tokenizer.sep_token is not None:
            return cls((prompt, answer))
        return cls((prompt + answer,))

    def tokens(self, tokenizer: Any, longest: int = _NO_LIMIT) -> Mapping[str, list[int]]:
        """Return the columns that a tokenizer makes of it, cut to the `longest` tokens."""
        found: Mapping[str, list[int]] = tokenizer(
            *self.texts, add_special_tokens=not self.is_chat, truncation=True, max_length=longest
        )
        return found


class Classifier:
    """Runs one model after the other on texts.

    Args:
        batch_size: maximum rows in a batch; `auto` sets it by the memory of the device.
    """

    def __init__(self, batch_size: int | Literal["auto"] = "auto") -> None:
        self.batch_size = batch_size
        self._tokenizer: Any = None
        self._inputs: tuple[Input, ...] = ()
        self._batches: list[tuple[list[Input], dict[str, Tensor]]] = []

    @torch.inference_mode()
    def __call__(self, model: Any, tokenizer: Any, inputs: Iterable[Input]) -> dict[Input, Tensor]:
        """Return the logits of each distinct input, as float32 on the CPU.

        They have the shape [labels].

        Raises:
            CandidateError: a logit is not finite.
        """
        distinct = tuple(dict.fromkeys(inputs))
        if tokenizer is not self._tokenizer or distinct != self._inputs:
            self._batches = self._cut(model, tokenizer, distinct)
            self._tokenizer, self._inputs = tokenizer, distinct
        known = inspect.signature(model.forward).parameters
        options = {"use_cache": False} if "use_cache" in known else {}
        found: dict[Input, Tensor] = {}
        for items, batch in self._batches:
            columns = {name: item.to(model.device) for name, item in batch.items() if name in known}
            logits = model(**columns, **options).logits.float().cpu()
            if not logits.isfinite().all():
                raise CandidateError("The model's logits are not finite numbers.")
            found |= dict(zip(items, logits, strict=True))
        return found

    def _cut(
        self, model: Any, tokenizer: Any, inputs: Sequence[Input]
    ) -> list[tuple[list[Input], dict[str, Tensor]]]:
        """Return the batches of inputs: which ones, and their columns, padded on the right."""
        longest, limits = longest_input(model, tokenizer), batching(model, self.batch_size)
        # A head behind two stacks wants as many end tokens in all texts of a batch.
        if model.config.is_encoder_decoder or not takes_padding(model.config):
            limits = replace(limits, rows=1)
        rows = [item.tokens(tokenizer, longest) for item in inputs]
        fill = {
            "input_ids": _padding_of(model.config) or 0,
            "token_type_ids": tokenizer.pad_token_type_id,
        }
        found = []
        for group in limits.cut([len(row["input_ids"]) for row in rows]):
            batch = {
                name: pad_sequence(
                    [torch.tensor(rows[place][name]) for place in group],
                    batch_first=True,
                    padding_value=fill.get(name, 0),
                )
                for name in rows[group[0]]
            }
            found.append(([inputs[place] for place in group], batch))
        return found


def longest_input(model: Any, tokenizer: Any) -> int:
    """Return the largest number of tokens that model and tokenizer allow; longer inputs are cut."""
    rows = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = rows if isinstance(rows, int) and rows > 0 else _NO_LIMIT
    for name, module in model.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:  # of RoBERTa: positions begin behind it
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    return int(min(limit, tokenizer.model_max_length, _NO_LIMIT))


def takes_padding(config: Any) -> bool:
    """Whether padding on the right changes no score, so that texts can share a batch.

    transformers finds the last token of a text by the token of padding. A model that reads what is
    at the end of the row (XLNet) must get each text alone.
    """
    return _padding_of(config) is not None and getattr(config, "summary_type", "") != "last"


def _padding_of(config: Any) -> int | None:
    found: int | None = getattr(config.get_text_config(), "pad_token_id", None)
    return found
