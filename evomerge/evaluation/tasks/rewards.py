"""Prompts of a file, to which a model generates answers that a reward model scores.

A row is a document:

    {"prompt": "..."}
    {"messages": [{"role": "user", "content": "..."}]}

See also `rows.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from evomerge.errors import ConfigError, did_you_mean
from evomerge.evaluation.inference.classifying import Chat
from evomerge.evaluation.inference.reference import ReferenceLM
from evomerge.evaluation.inference.rewarding import RewardModel
from evomerge.evaluation.inference.sampling import is_sampled
from evomerge.evaluation.tasks.info import MetricInfo
from evomerge.evaluation.tasks.rows import Row, RowsObjective, messages
from evomerge.evaluation.tasks.scoring import DocumentMetrics, example_of, first_text
from evomerge.parsing.values import Values
from evomerge.scores import REWARD, TOKENS, Example

_VALUES = Values(ConfigError)


@dataclass
class Question:
    """What is read of an `Instance` of lm-eval that generates a text."""

    args: tuple[str, Mapping[str, Any]]
    task_name: str
    doc_id: int
    resps: list[str] = field(default_factory=list)
    request_type = "generate_until"
    idx, repeats = 0, 1


class RewardObjective(RowsObjective):
    """The rewards of the answers to prompts.

    Args:
        options: how answers are generated, as lm-eval's `generation_kwargs`.
        is_chat: whether the chat template of the models that answer writes their prompts.

    Raises:
        ConfigError: there are messages, and nothing to write them with.
    """

    model, kind, needed = "generate_until", "prompts", ()
    compared = ("prompt", "messages")
    row_text = '{"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'

    def __init__(
        self,
        name: str,
        rows: Sequence[Row],
        digest: str,
        rewards: RewardModel,
        options: Mapping[str, Any],
        *,
        is_chat: bool,
    ) -> None:
        super().__init__(name, rows, digest, [REWARD])
        metrics = {**self.info.metrics, TOKENS: MetricInfo(False, is_mean=True)}
        self.info = replace(self.info, metrics=metrics, is_sampled=is_sampled(options))
        self.digests["reward model"] = rewards.checkpoint.fingerprint
        self.rewards, self._options, self._is_chat = rewards, options, is_chat
        for number, row in enumerate(rows if not is_chat else (), start=1):
            if "messages" in row:
                raise ConfigError(
                    f"objectives: row {number} of {name} has `messages`, which a chat template "
                    "writes, but `evaluation.chat_template` is false; set it to true, or write "
                    "a `prompt`."
                )

    @staticmethod
    def checked(row: Row, where: str) -> Row:
        """Return a row with a prompt, or with messages."""
        given = [key for key in RewardObjective.compared if row.get(key) is not None]
        if len(given) != 1:
            known = did_you_mean(next(iter(row), ""), RewardObjective.compared)
            raise ConfigError(
                f"objectives: {where} has {'both a' if given else 'no'} `prompt` "
                f"{'and' if given else 'and no'} `messages`; a row of prompts is "
                f"{RewardObjective.row_text}.{known}"
            )
        if given == ["prompt"]:
            return {"prompt": _VALUES.text(row["prompt"], f"{where}: prompt")}
        return {"messages": tuple(messages(row["messages"], f"{where}: messages"))}

    def prompt(self, document: int) -> str | Chat:
        """Return the text or the messages of a document."""
        (found,) = self.rows[document].values()
        prompt: str | Chat = found
        return prompt

    def build(self, task: str, ids: Sequence[int], reference: ReferenceLM) -> list[list[Question]]:
        """Return the request of each document.

        Args:
            reference: has the chat template.

        Raises:
            CheckpointError: the reward model cannot be loaded.
        """
        _ = self.rewards.model  # before an answer is written

        def text(prompt: str | Chat) -> str:
            if isinstance(prompt, str):
                prompt = [{"role": "user", "content": prompt}] if self._is_chat else prompt
            return prompt if isinstance(prompt, str) else reference.chat_template(list(prompt))

        return [[Question((text(self.prompt(i)), self._options), task, i)] for i in ids]

    def measure(self, task: str, documents: Sequence[Sequence[Question]]) -> list[DocumentMetrics]:
        """Return the reward of each document, from the answer (`resps`) in its request."""
        answers = [(self.prompt(item[0].doc_id), first_text(item)) for item in documents]
        return [{REWARD: value} for value in self.rewards.rewards(answers)]

    def example(
        self, task: str, document: int, requests: Sequence[Question], values: Mapping[str, float]
    ) -> Example:
        """Return one scored document with prompt and answer."""
        answer = first_text(requests)
        return example_of(task, document, requests[0].args[0], answer, answer, "", values)
