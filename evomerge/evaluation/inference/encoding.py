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
from evomerge.evaluation.inference.batches import batching
from evomerge.models.modules import STACK, ModuleStack, max_length

Role: TypeAlias = Literal["text", "query", "document"]
"""What a text is to a model that has different prompts or lengths for queries and documents."""


class _Plan(NamedTuple):
    """The padded batches of different texts, the row of each text, and the tokens of the prompt."""

    rows: dict[str, int]
    batches: list[dict[str, Tensor]]
    prompt: int


class TextEncoder:
    """Encodes texts with one model after the other, in batches of at most `batch_size` rows."""

    def __init__(self, batch_size: int | Literal["auto"] = "auto") -> None:
        self.batch_size = batch_size
        self._made_for: tuple[Any, ModuleStack] | None = None
        self._plans: dict[Role, _Plan] = {}

    @torch.inference_mode()
    def __call__(
        self, model: Any, tokenizer: Any, texts: Iterable[str], role: Role = "text"
    ) -> Tensor:
        """Return the embeddings of texts: a float64 matrix on the CPU with one row for each.

        Equal texts are encoded once.

        Raises:
            CandidateError: a number of an embedding is not finite.
            CheckpointError: the model has no modules of a sentence encoder.
        """
        stack, texts = stack_of(model), list(texts)
        if (tokenizer, stack) != self._made_for:
            self._made_for, self._plans = (tokenizer, stack), {}
        plan = self._plans.get(role)
        if plan is None or plan.rows.keys() != set(texts):
            plan = self._plans[role] = self._plan(model, tokenizer, texts, role)
        embeddings = torch.cat([_encoded(model, batch, plan.prompt) for batch in plan.batches])
        if not embeddings.isfinite().all():
            raise CandidateError("The model's embeddings are not finite numbers.")
        return embeddings[[plan.rows[text] for text in texts]]

    def _plan(self, model: Any, tokenizer: Any, texts: Sequence[str], role: Role) -> _Plan:
        stack, distinct = stack_of(model), list(dict.fromkeys(texts))
        settings = stack.modules[0].settings
        if settings.get("do_lower_case"):
            tokenizer = _lower_casing(tokenizer)
        limit = max_length(settings, tokenizer.model_max_length, model.config.to_dict(), role)
        options: dict[str, Any] = {"truncation": True, "max_length": limit} if limit else {}
        prompt = stack.prompt if role == "text" else stack.prompts[role]
        given = [prompt + text for text in distinct]
        lengths = list(map(len, tokenizer(given, **options)["input_ids"]))
        groups = batching(model, self.batch_size).cut(lengths)
        options |= {"padding": True, "return_tensors": "pt"}
        batches = [dict(tokenizer([given[i] for i in group], **options)) for group in groups]
        order = [distinct[place] for group in groups for place in group]
        rows = {text: row for row, text in enumerate(order)}
        return _Plan(rows, batches, _prompt_length(tokenizer, prompt))


def _encoded(model: Any, batch: Mapping[str, Tensor], prompt: int) -> Tensor:
    """Return the embeddings of a batch; `prompt`: tokens before each text."""
    stack = stack_of(model)
    transformer = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    known = inspect.signature(transformer.forward).parameters
    inputs = {name: item.to(model.device) for name, item in batch.items()}
    output = transformer(**{name: item for name, item in inputs.items() if name in known})
    features = {**inputs, "token_embeddings": output.last_hidden_state}
    if prompt:
        features["prompt_length"] = prompt
    for folder in stack.folders:
        features = getattr(model, folder)(features)
    found: Tensor = features["sentence_embedding"][:, : stack.settings.get("truncate_dim")]
    return found.double().cpu()


def stack_of(model: Any) -> ModuleStack:
    """Return the modules that were added to a model; `CheckpointError`: there are none."""
    stack: ModuleStack | None = getattr(model, STACK, None)
    if stack is None:
        raise CheckpointError(
            "The model has no modules of sentence-transformers, so nothing says how the vectors of "
            "its tokens become one of a text; make a sentence encoder of it with "
            "`SentenceTransformer(FOLDER)` and `save_pretrained`."
        )
    return stack


def _lower_casing(tokenizer: Any) -> Any:
    """Return a copy of a tokenizer that makes letters small first."""
    from tokenizers.normalizers import Lowercase, Sequence

    tokenizer = copy.deepcopy(tokenizer)
    core = tokenizer.backend_tokenizer
    core.normalizer = Sequence([Lowercase(), *filter(None, [core.normalizer])])
    return tokenizer


def _prompt_length(tokenizer: Any, prompt: str) -> int:
    """Return the number of tokens of a prompt, without a special token behind it."""
    if not prompt:
        return 0
    ids: Sequence[int] = tokenizer(prompt)["input_ids"]
    return len(ids) - (bool(ids) and ids[-1] in tokenizer.all_special_ids)
