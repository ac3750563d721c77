"""Running models with a classification head on texts, as transformers runs them one by one.

Texts of about one length are padded on the right and go through the model together. What depends on
the tokenizer only is done once for each distinct text.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from evomerge.errors import CandidateError
from evomerge.evaluation.inference.batches import batching

Chat: TypeAlias = Sequence[Mapping[str, Any]]
"""Messages, each with a role and a content."""


@dataclass(frozen=True)
class Input:
    """What a model reads at once.

    Attributes:
        texts: a text, or a pair of texts; or messages of a chat as JSON.
    """

    texts: tuple[str, ...]
    form: Literal["text", "chat"] = "text"

    @classmethod
    def of_chat(cls, messages: Chat) -> Input:
        """Return what a model reads of messages, by the tokenizer's chat template."""
        return cls((json.dumps(list(messages)),), "chat")

    @classmethod
    def of_answer(cls, prompt: str, answer: str, tokenizer: Any) -> Input:
        """Return what a model reads of an answer: a pair of texts, if its tokenizer separates them.

        Otherwise the two are one text.
        """
        if prompt and tokenizer.sep_token is not None:
            return cls((prompt, answer))
        return cls((prompt + answer,))


class Classifier:
    """Runs one model after the other on texts.

    Args:
        batch_size: maximum rows in a batch; `auto` sets it by the memory of the device.
    """

    def __init__(self, batch_size: int | Literal["auto"] = "auto") -> None:
        self.batch_size = batch_size
        self._tokenizer: Any = None
        self._longest = 0
        self._tokens: dict[Input, dict[str, list[int]]] = {}
        """Input -> the columns that the tokenizer makes of it."""
        self._cut: tuple[tuple[Input, ...], bool, list[list[int]]] | None = None

    @torch.inference_mode()
    def __call__(self, model: Any, tokenizer: Any, inputs: Iterable[Input]) -> dict[Input, Tensor]:
        """Return the logits of each distinct input, as float32 on the CPU.

        They have the shape [labels].

        Raises:
            CandidateError: a logit is not finite.
        """
        longest = longest_input(model, tokenizer)
        if tokenizer is not self._tokenizer or longest != self._longest:
            self._tokenizer, self._longest, self._tokens, self._cut = tokenizer, longest, {}, None
        distinct = tuple(dict.fromkeys(inputs))
        self._tokenize([item for item in distinct if item not in self._tokens])
        alone = not takes_padding(model.config)
        if self._cut is None or self._cut[:2] != (distinct, alone):
            limits = batching(model, self.batch_size)
            limits = replace(limits, rows=1) if alone else limits
            alike: dict[int, list[int]] = {}
            for place, item in enumerate(distinct):
                alike.setdefault(self._ends(model, item), []).append(place)
            groups = [
                [places[i] for i in group]
                for places in alike.values()
                for group in limits.cut([self._length(distinct[place]) for place in places])
            ]
            self._cut = (distinct, alone, groups)
        found = {}
        for group in self._cut[2]:
            items = [distinct[place] for place in group]
            logits = model(**self._batch(model, items)).logits.float().cpu()
            for item, row in zip(items, logits, strict=True):
                found[item] = row
                if not row.isfinite().all():
                    raise CandidateError("The model's logits are not finite numbers.")
        return found

    def count_tokens(self, tokenizer: Any, item: Input) -> int:
        """Return how many tokens a tokenizer makes of an input that is not cut."""
        self._tokenizer, self._longest, self._tokens, self._cut = tokenizer, _NO_LIMIT, {}, None
        self._tokenize([item])
        return self._length(item)

    def _length(self, item: Input) -> int:
        return len(self._tokens[item]["input_ids"])

    def _ends(self, model: Any, item: Input) -> int:
        """Return the number of end tokens that must be equal in a batch; 0: it may be any.

        Classifiers with two stacks read the last one of a text. transformers refuses a batch in
        which some texts have more of them, such as pairs beside single texts.
        """
        if not getattr(model.config, "is_encoder_decoder", False):
            return 0
        return self._tokens[item]["input_ids"].count(model.config.eos_token_id)

    def _tokenize(self, items: Sequence[Input]) -> None:
        """Keep the tokens of inputs; those of one form go to the tokenizer together."""
        alike: dict[tuple[str, int], list[Input]] = {}
        for item in items:
            alike.setdefault((item.form, len(item.texts)), []).append(item)
        for (form, _), group in alike.items():
            options: dict[str, Any] = {"truncation": True, "max_length": self._longest}
            if form == "chat":
                texts = [self._chat(item.texts[0]) for item in group]
                encoded = self._tokenizer(texts, add_special_tokens=False, **options)
            else:
                columns = map(list, zip(*(item.texts for item in group), strict=True))
                encoded = self._tokenizer(*columns, **options)
            for place, item in enumerate(group):
                self._tokens[item] = {name: list(column[place]) for name, column in encoded.items()}

    def _chat(self, messages: str) -> str:
        text: str = self._tokenizer.apply_chat_template(json.loads(messages), tokenize=False)
        return text

    def _batch(self, model: Any, items: Sequence[Input]) -> dict[str, Any]:
        """Return the model's arguments for some inputs, padded on the right."""
        known = inspect.signature(model.forward).parameters
        tokens = [self._tokens[item] for item in items]
        length = max(map(self._length, items))
        padding = {
            "input_ids": _padding_of(model.config) or 0,
            "token_type_ids": self._tokenizer.pad_token_type_id,
        }
        found: dict[str, Any] = {
            name: torch.tensor(
                [
                    item[name] + [padding.get(name, 0)] * (length - len(item["input_ids"]))
                    for item in tokens
                ],
                device=model.device,
            )
            for name in tokens[0]
            if name in known
        }
        return found | ({"use_cache": False} if "use_cache" in known else {})


def longest_input(model: Any, tokenizer: Any) -> int:
    """Return the largest number of tokens that model and tokenizer allow; longer inputs are cut."""
    rows = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = rows if isinstance(rows, int) and rows > 0 else _NO_LIMIT
    for name, module in model.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:  # of RoBERTa: positions begin behind it
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    return int(min(limit, tokenizer.model_max_length, _NO_LIMIT))


_NO_LIMIT = 2**30
"""Tokens of an input, where neither model nor tokenizer has a limit."""


def takes_padding(config: Any) -> bool:
    """Whether padding on the right changes no score, so that texts can share a batch.

    transformers finds the last token of a text by the token of padding. A model that reads what is
    at the end of the row (XLNet) must get each text alone.
    """
    return _padding_of(config) is not None and getattr(config, "summary_type", "") != "last"


def _padding_of(config: Any) -> int | None:
    found: int | None = getattr(config.get_text_config(), "pad_token_id", None)
    return found
