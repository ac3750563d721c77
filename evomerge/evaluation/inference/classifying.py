"""Running models with a classification head on texts, as transformers runs them one by one.

Texts of about one length are padded on the right and go through the model together.
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

_NO_LIMIT = 2**30  # tokens of an input, where neither model nor tokenizer has a limit


@dataclass(frozen=True)
class Input:
    """What a model reads at once: a text, or a pair of texts.

    No special token is added to a chat, which a chat template has written.
    """

    texts: tuple[str, ...]
    is_chat: bool = False

    @classmethod
    def of_chat(cls, messages: Chat, tokenizer: Any) -> Input:
        """Return what a model reads of messages, by the tokenizer's chat template."""
        return cls((tokenizer.apply_chat_template(list(messages), tokenize=False),), is_chat=True)

    def tokens(self, tokenizer: Any, longest: int = _NO_LIMIT) -> Mapping[str, list[int]]:
        """Return the columns that a tokenizer makes of it, cut to the `longest` tokens."""
        special = not self.is_chat
        options = {"add_special_tokens": special, "truncation": True, "max_length": longest}
        found: Mapping[str, list[int]] = tokenizer(*self.texts, **options)
        return found


Batches: TypeAlias = Sequence[tuple[Sequence[Input], Mapping[str, Tensor]]]
"""The inputs of each batch, and their columns, padded on the right."""


@torch.inference_mode()
def classify(model: Any, batches: Batches) -> dict[Input, Tensor]:
    """Return the logits of each input, float32 [labels], on the CPU.

    Raises:
        CandidateError: a logit is not finite.
    """
    known = inspect.signature(model.forward).parameters
    options = {"use_cache": False} if "use_cache" in known else {}
    found: dict[Input, Tensor] = {}
    for items, batch in batches:
        columns = {name: item.to(model.device) for name, item in batch.items() if name in known}
        logits = model(**columns, **options).logits.float().cpu()
        if not logits.isfinite().all():
            raise CandidateError("The model's logits are not finite numbers.")
        found |= dict(zip(items, logits, strict=True))
    return found


def batches_of(
    model: Any, tokenizer: Any, inputs: Iterable[Input], batch_size: int | Literal["auto"] = "auto"
) -> Batches:
    """Return the batches of the different inputs, each of at most `batch_size` rows."""
    distinct = list(dict.fromkeys(inputs))
    longest, limits = _longest_input(model, tokenizer), batching(model, batch_size)
    config, pad = model.config, getattr(model.config.get_text_config(), "pad_token_id", None)
    # transformers finds the last token of a text by the token of padding. XLNet reads what is at
    # the end of the row. A head behind two stacks wants as many end tokens in all texts of a batch.
    reads_end = getattr(config, "summary_type", "") == "last"
    if config.is_encoder_decoder or pad is None or reads_end:
        limits = replace(limits, rows=1)
    rows = [item.tokens(tokenizer, longest) for item in distinct]
    fill = {"input_ids": pad or 0, "token_type_ids": tokenizer.pad_token_type_id}
    found = []
    for group in limits.cut([len(row["input_ids"]) for row in rows]):
        columns = {
            name: [torch.tensor(rows[place][name]) for place in group] for name in rows[group[0]]
        }
        batch = {
            name: pad_sequence(column, batch_first=True, padding_value=fill.get(name, 0))
            for name, column in columns.items()
        }
        found.append(([distinct[place] for place in group], batch))
    return found


def _longest_input(model: Any, tokenizer: Any) -> int:
    """Return the largest number of tokens that model and tokenizer allow; longer inputs are cut."""
    rows = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = rows if isinstance(rows, int) and rows > 0 else _NO_LIMIT
    for name, module in model.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:  # of RoBERTa: positions begin behind it
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    return int(min(limit, tokenizer.model_max_length, _NO_LIMIT))
