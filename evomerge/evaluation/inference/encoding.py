"""Encoding texts with a sentence encoder, as `SentenceTransformer.encode` does it.

A text gets the prompt of its role, is cut to the largest length, and goes through the transformer
and the modules behind it, which are children of the model. What depends on the tokenizer only is
done once.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from evomerge.errors import CandidateError, CheckpointError
from evomerge.evaluation.inference.batches import Batching, batching
from evomerge.models.modules import STACK, ModuleStack, max_length

Role: TypeAlias = Literal["text", "query", "document"]
"""What a text is to a model that has different prompts or lengths for queries and documents."""


class Plan(NamedTuple):
    """The padded batches of some texts, the texts' places in them, and the tokens of the prompt."""

    texts: tuple[str, ...]
    order: list[int]
    batches: list[dict[str, Tensor]]
    prompt: int

    def rows(self, texts: Iterable[str]) -> list[int]:
        """Return the rows that texts have in all batches together."""
        row_of = {self.texts[place]: row for row, place in enumerate(self.order)}
        return [row_of[text] for text in texts]


class TextEncoder:
    """Encodes texts with one model after the other.

    Args:
        batch_size: maximum rows in a batch; `auto` sets it by the memory of the device.
    """

    def __init__(self, batch_size: int | Literal["auto"] = "auto") -> None:
        self.batch_size = batch_size
        self._tokenizer: Any = None
        self._stack: ModuleStack | None = None
        self._plans: dict[Role, Plan] = {}

    @torch.inference_mode()
    def __call__(
        self, model: Any, tokenizer: Any, texts: Iterable[str], role: Role = "text"
    ) -> Tensor:
        """Return the embeddings of texts: a float64 matrix on the CPU with one row for each.

        Equal texts are encoded once.

        Args:
            model: a model to which the modules of a sentence encoder were added.

        Raises:
            CandidateError: a number of an embedding is not finite.
            CheckpointError: the model has no modules.
        """
        stack = stack_of(model)
        if tokenizer is not self._tokenizer or stack is not self._stack:
            self._tokenizer, self._stack, self._plans = tokenizer, stack, {}
        texts = list(texts)
        distinct = tuple(dict.fromkeys(texts))
        plan = self._plans.get(role)
        if plan is None or plan.texts != distinct:
            limits = batching(model, self.batch_size)
            plan = self._plans[role] = planned(model, tokenizer, distinct, role, limits)
        embeddings = torch.cat([encoded(model, plan, batch) for batch in plan.batches])
        if not embeddings.isfinite().all():
            raise CandidateError("The model's embeddings are not finite numbers.")
        return embeddings[plan.rows(texts)]


def planned(model: Any, tokenizer: Any, texts: Iterable[str], role: Role, limits: Batching) -> Plan:
    """Return batches of texts within limits; equal texts are in them once."""
    stack, texts = stack_of(model), tuple(dict.fromkeys(texts))
    settings = stack.modules[0].settings
    if settings.get("do_lower_case"):
        tokenizer = lower_casing(tokenizer)
    limit = max_length(settings, tokenizer.model_max_length, model.config.to_dict(), role)
    prompt = prompt_of(stack, role)
    options: dict[str, Any] = {}
    if limit is not None:
        options = {"truncation": True, "max_length": limit}
    given = [prompt + text for text in texts]
    lengths = list(map(len, tokenizer(given, **options)["input_ids"]))
    groups = limits.cut(lengths)
    options |= {"padding": True, "return_tensors": "pt"}
    batches = [dict(tokenizer([given[i] for i in group], **options)) for group in groups]
    order = [place for group in groups for place in group]
    return Plan(texts, order, batches, _prompt_length(tokenizer, prompt))


def encoded(model: Any, plan: Plan, batch: Mapping[str, Tensor]) -> Tensor:
    """Return the embeddings of a batch of a plan: a float64 matrix on the CPU, a row for each."""
    stack = stack_of(model)
    transformer = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    known = inspect.signature(transformer.forward).parameters
    inputs = {name: item.to(model.device) for name, item in batch.items()}
    output = transformer(**{name: item for name, item in inputs.items() if name in known})
    features = {**inputs, "token_embeddings": output.last_hidden_state}
    if plan.prompt:
        features["prompt_length"] = plan.prompt
    for folder in stack.folders:
        features = getattr(model, folder)(features)
    found: Tensor = features["sentence_embedding"][:, : stack.settings.get("truncate_dim")]
    return found.double().cpu()


def stack_of(model: Any) -> ModuleStack:
    """Return the modules that were added to a model; `CheckpointError`: there are none."""
    found = getattr(model, STACK, None)
    if found is None:
        raise CheckpointError(
            "The model has no modules of sentence-transformers, so nothing says how the vectors of "
            "its tokens become one of a text; make a sentence encoder of it with "
            "`SentenceTransformer(FOLDER)` and `save_pretrained`."
        )
    stack: ModuleStack = found
    return stack


def prompt_of(stack: ModuleStack, role: Role) -> str:
    """Return what is written before a text."""
    return stack.prompt if role == "text" else stack.prompts[role]


def lower_casing(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that makes letters small first."""
    from tokenizers.normalizers import Lowercase, Sequence

    tokenizer = copy.deepcopy(tokenizer)
    core = tokenizer.backend_tokenizer
    own = [] if core.normalizer is None else [core.normalizer]
    core.normalizer = Sequence([Lowercase(), *own])
    return tokenizer


def _prompt_length(tokenizer: Any, prompt: str) -> int:
    """Return the number of tokens of a prompt, without a special token behind it."""
    if not prompt:
        return 0
    ids: Sequence[int] = tokenizer(prompt)["input_ids"]
    return len(ids) - (bool(ids) and ids[-1] in tokenizer.all_special_ids)
