"""Scoring answers by a reward model, which is the same for all models that have written them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Literal

import xxhash
from torch import Tensor

from evomerge.evaluation.inference.classifying import Chat, Classifier, Input
from evomerge.models.checkpoint import Checkpoint


class RewardModel(Classifier):
    """A reward model, which is loaded when it first scores, and stays in memory.

    Which answers share a batch follows from the answers alone, since it can change the last bits of
    a reward. So a batch is what is known of answers that were scored before, not a single answer.

    Args:
        checkpoint: the model on disk.
        load: returns the model, which has one output.
        load_tokenizer: returns its tokenizer.
        batch_size: maximum rows in a batch; `auto` sets it by the memory of the device.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        load: Callable[[], Any],
        load_tokenizer: Callable[[], Any],
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(batch_size)
        self.checkpoint = checkpoint
        self._load, self._load_tokenizer = load, load_tokenizer
        self._known: dict[bytes, Tensor] = {}

    @cached_property
    def model(self) -> Any:
        """The model, on its device."""
        return self._load()

    @cached_property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self._load_tokenizer()

    def rewards(self, answers: Iterable[tuple[str | Chat, str]]) -> list[float]:
        """Return the reward of each answer, of pairs of a prompt and an answer.

        Raises:
            CandidateError: one is not finite.
        """
        inputs = [self.input(prompt, answer) for prompt, answer in answers]
        found = self(self.model, self.tokenizer, inputs)
        self._tokens, self._cut = {}, None  # the next answers are others
        return [float(found[item][0]) for item in inputs]

    def input(self, prompt: str | Chat, answer: str) -> Input:
        """Return what the model reads of an answer: a chat, if its tokenizer has a template.

        Otherwise it is a pair of texts if the tokenizer separates them, or one text with a blank
        between the two.
        """
        if self.tokenizer.chat_template is not None or not isinstance(prompt, str):
            asked = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            return Input.of_chat([*asked, {"role": "assistant", "content": answer}])
        is_apart = prompt[-1:].isspace() or answer[:1].isspace()
        blank = "" if is_apart or self.tokenizer.sep_token is not None else " "
        return Input.of_answer(prompt, blank + answer, self.tokenizer)

    def _logits(self, model: Any, items: Sequence[Input]) -> Tensor:
        """Return the logits of a batch, which runs once."""
        texts = json.dumps([(item.form, item.texts) for item in items])
        key = xxhash.xxh3_128_digest(texts.encode())
        if key not in self._known:
            self._known[key] = super()._logits(model, items)
        return self._known[key]
