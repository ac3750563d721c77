"""Running models on tokenised requests, in the fastest way that gives the right results.

The fast ways (packed rows, a shared prefix, the output head on few positions, own generation) do
not work with every architecture, and a wrong attention mask is silent. So `Forward.check` compares
each with a plain way on a few documents.

Some models compute a text that passes a length in another way: longrope takes other factors for all
texts of a batch that has one, chunked attention begins a new chunk. So the fast ways are for texts
up to that length only: a longer one is scored in a plain pass of its own, and lm-eval generates it.
"""

import inspect
import itertools
import logging
import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch

from evomerge.compat.transformers import longest_uniform_text
from evomerge.device import is_device_failure, is_exhausted
from evomerge.errors import CandidateError, ConfigError, EvomergeError, one_line
from evomerge.evaluation.inference import generation, likelihood
from evomerge.evaluation.inference.generation import Prompt, unsupported_setting
from evomerge.evaluation.inference.likelihood import Batch
from evomerge.evaluation.inference.probes import (
    RowProbes,
    agree,
    last_of,
    prompt_probes,
    reach,
    within,
)
from evomerge.evaluation.inference.reference import ReferenceLM, Request
from evomerge.evaluation.inference.rows import (
    Continuation,
    Row,
    batching,
    by_prefix,
    pack,
    separate,
)

log = logging.getLogger(__name__)

DocumentRequests: TypeAlias = Sequence[Request]
"""The requests of one document, for example one for each choice of a question."""

_MAX_PLANS = 8  # sets of documents whose batches are kept
_CACHED_PER_TOKEN = 4  # cached tokens that take about as much memory as one computed token
_COMPARED = 8  # scored tokens by which ways of running are compared


class _Plan(NamedTuple):
    """The requests of a set of documents by who answers them, and what the model reads for them.

    Those `scored` have continuations, which are in `batches`; those `prompted` have the `prompts`,
    of which each of the `groups` is a batch of places; those `left` are for lm-eval itself.
    """

    scored: list[Request]
    batches: list[Batch]
    prompted: list[Request]
    prompts: list[Prompt]
    groups: list[list[int]]
    left: list[Request]


class Forward:
    """Runs models of one architecture on requests, with lm-eval's model class around one of them.

    Args:
        batch_size: maximum rows in a batch; `auto` limits only the number of tokens. With 1, each
            text is a pass of its own, as in lm-eval with its default batch size: then the bits of
            every score are lm-eval's in any dtype, at the price of speed.

    Attributes:
        packed: whether the continuations of a document share a row.
        shared: whether a prefix that documents share is computed only once.
        gather: whether the output head is applied only to scored positions.
        own_loop: whether our own loop generates; otherwise lm-eval's `generate_until` does.
        limit: most tokens of a text that is run in the fast ways.
        batching: the size limits of batches.
        oom_backoffs: how often these were halved because memory ran out.
    """

    def __init__(
        self, model: Any, tokenizer: Any, reference: ReferenceLM, batch_size: int | Literal["auto"]
    ) -> None:
        self.reference = reference
        takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self.own_loop = takes_positions and unsupported_setting(model.generation_config) is None
        self.packed = self.gather = batch_size != 1
        self.shared = False
        self.limit = longest_uniform_text(model.config.get_text_config())
        self.batching, self.oom_backoffs = batching(model, batch_size), 0
        self.pad = int(tokenizer.pad_token_id or 0)
        self._plans: dict[Hashable, _Plan] = {}
        self._stops = cache(partial(generation.stop_detector, tokenizer))

    def __call__(self, model: Any, key: Hashable, documents: Sequence[DocumentRequests]) -> None:
        """Run a model on all requests of some documents and store the answers in the requests.

        `key` identifies this set of documents, whose batches are kept.

        Raises:
            CandidateError: a single row does not fit into memory, or a result is NaN.
        """
        while True:
            try:
                self._answer(model, key, documents)
                return
            except RuntimeError as error:
                if not is_exhausted(error):
                    raise
                if self.batching.rows == 1 or self.batching.tokens <= 1:
                    raise CandidateError(
                        "One document alone does not fit into the device's memory; use a smaller "
                        "model, shorter prompts, or a device with more memory."
                    ) from error
                self.halve(self.oom_backoffs + 1)
                torch.cuda.empty_cache()
                log.warning("Batches now hold %d tokens: memory ran out.", self.batching.tokens)

    def check(self, model: Any, tasks: Sequence[Sequence[DocumentRequests]]) -> None:
        """Choose the fastest ways that give this model the right results on a few documents.

        Raises:
            ConfigError: the model cannot be run in the plain way, that of lm-eval, either.
        """
        documents = [within(document, self.limit) for task in tasks for document in task]
        if self.packed:
            self._check_scoring(model, documents)
        prompts = [request.prompts[0] for of in documents for request in of if request.prompts]
        if prompts and self.own_loop:
            self.own_loop = self._generates(model, prompts)
        for task in tasks:
            left = (request for document in task for request in document if self._is_left(request))
            for request in itertools.islice(left, 1):
                with _refusing(model):
                    self.reference.answer_alone(model, request)

    def _is_left(self, request: Request) -> bool:
        """Return whether lm-eval itself answers a request."""
        is_ours = self.own_loop and bool(request.prompts)
        is_ours = is_ours and all(reach(prompt) <= self.limit for prompt in request.prompts)
        return self.reference.is_alone or (request.kind == "generate_until" and not is_ours)

    def _check_scoring(self, model: Any, documents: Sequence[DocumentRequests]) -> None:
        """Choose the first way of scoring that gives the logits of plain passes, up to rounding.

        A plain pass reads one continuation alone. Ways differ in `packed` and `gather`; the one
        that is chosen is tried with a `shared` prefix, too. Of each probe the logits of its last
        targets are compared: (targets, vocabulary).
        """
        probes = RowProbes.of(continuation_rows(documents, packed=True))
        with _refusing(model):
            alone = [Batch.of([row], self.pad, model.device) for row in probes.alone()]
            expected = likelihood.last_logits(model, alone, False, _COMPARED)

        def batches(run: Sequence[Row], packed: bool, shared: bool = False) -> list[Batch]:
            rows = run if packed else [*map(last_of, run)]
            return self._batches(rows, model.device, shared)

        def are_right(batches: Sequence[Batch], gather: bool) -> bool:
            try:
                logits = likelihood.last_logits(model, batches, gather, _COMPARED)
            except Exception as error:
                log.debug("gather=%s, %d batches: %s", gather, len(batches), error)
                return False
            return all(agree(logits[n], expected[n], model) for n in expected if n in logits)

        self.packed = self.gather = False
        for packed, gather in ((True, True), (True, False), (False, True)):
            if are_right([b for run in probes.runs for b in batches(run, packed)], gather):
                self.packed, self.gather = packed, gather
                break
        sharing = batches(probes.sharing, self.packed, shared=True)
        has_prefix = any(batch.prefix for batch in sharing)
        self.shared = has_prefix and are_right(sharing, self.gather)

    def _generates(self, model: Any, prompts: Sequence[Prompt]) -> bool:
        """Return whether our own loop has the logits of passes without a cache."""
        texts = prompt_probes(model, prompts)
        try:
            for group in generation.make_batches(texts, self.batching):
                batch = [texts[index] for index in group]
                found = generation.continue_for_check(model, batch, self.pad)
                for probe, (text, logits) in zip(batch, found, strict=True):
                    if probe in (*texts[:-2], texts[0], texts[-1]):
                        plain = generation.plain_logits(model, probe, text)
                        if not agree(logits, plain, model):
                            return False
        except Exception as error:
            log.debug("own generation: %s", error)
            return False
        return True

    def _batches(self, rows: Sequence[Row], device: torch.device, shared: bool) -> list[Batch]:
        alone = [row for row in rows if len(row.start) > self.limit]
        rows = [row for row in rows if len(row.start) <= self.limit]
        batches = [Batch.of([row], self.pad, device) for row in alone]
        for prefix, rest in by_prefix(rows) if shared else [((), rows)]:
            cached = len(prefix) // _CACHED_PER_TOKEN
            for group in self.batching.cut([cached + len(row) for row in rest]):
                batches.append(Batch.of([rest[i] for i in group], self.pad, device, prefix))
        return batches

    def _answer(self, model: Any, key: Hashable, documents: Sequence[DocumentRequests]) -> None:
        if key not in self._plans:
            while len(self._plans) >= _MAX_PLANS:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = self._plan(documents, model.device)
        plan = self._plans[key]
        if plan.scored:
            count = sum(len(request.continuations) for request in plan.scored)
            scores = iter(likelihood.score(model, plan.batches, count, self.gather))
            for request in plan.scored:
                request.answer_scored([next(scores) for _ in request.continuations])
        texts = iter(self.generate(model, plan.prompts, plan.groups))
        for request in plan.prompted:
            self.reference.answer(request, [next(texts) for _ in request.prompts])
        for request in plan.left:
            self.reference.answer_alone(model, request)

    def _plan(self, documents: Sequence[DocumentRequests], device: torch.device) -> _Plan:
        requests = [request for document in documents for request in document]
        left = [request for request in requests if self._is_left(request)]
        prompted = [r for r in requests if r.prompts and not self._is_left(r)]
        scored = [r for r in requests if r.kind != "generate_until" and not self._is_left(r)]
        rows = continuation_rows(documents, self.packed, self.limit)
        prompts = [prompt for request in prompted for prompt in request.prompts]
        groups = generation.make_batches(prompts, self.batching)
        return _Plan(
            scored, self._batches(rows, device, self.shared), prompted, prompts, groups, left
        )

    def halve(self, oom_backoffs: int) -> None:
        """Halve the batch limits until they have been halved `oom_backoffs` times or more."""
        while self.oom_backoffs < oom_backoffs:
            self.batching, self.oom_backoffs = self.batching.halved(), self.oom_backoffs + 1
            self._plans.clear()

    def generate(
        self, model: Any, prompts: Sequence[Prompt], groups: Sequence[Sequence[int]]
    ) -> list[list[int]]:
        """Return the new tokens of each prompt, batch by batch (`generation.make_batches`)."""
        generated: list[list[int]] = [[] for _ in prompts]
        for group in groups:
            batch = [prompts[index] for index in group]
            stops = self._stops(batch[0].stops)
            tokens = generation.continue_prompts(model, batch, stops, self.pad)
            for index, new in zip(group, tokens, strict=True):
                generated[index] = new
        return generated


def continuation_rows(
    documents: Sequence[DocumentRequests], packed: bool, limit: float = math.inf
) -> list[Row]:
    """Return the rows that score the documents' continuations, indexed one after the other.

    A continuation of more than `limit` tokens gets a row of its own, without branches.
    """
    rows, numbers = list[Row](), itertools.count()
    for requests in documents:
        share = packed and bool(requests) and requests[0].kind == "loglikelihood"
        lengths: dict[bool, list[tuple[int, Continuation]]] = {False: [], True: []}
        for continuation in (c for request in requests for c in request.continuations):
            lengths[len(continuation.tokens) > limit].append((next(numbers), continuation))
        for is_long, numbered in lengths.items():
            if numbered:
                indices, continuations = zip(*numbered, strict=True)
                make = pack if share and not is_long else separate
                rows += make(continuations, indices)
    return rows


@contextmanager
def _refusing(model: Any) -> Iterator[None]:
    """Turn an error of a plain run of the model into a sentence, since no other way is left."""
    try:
        yield
    except EvomergeError:
        raise
    except Exception as error:  # transformers raises anything for settings that it cannot use
        if is_exhausted(error) or is_device_failure(error):
            raise
        raise ConfigError(
            "objectives: lm-eval cannot score the host on the tasks "
            f"({type(error).__name__}: {one_line(error).rstrip('.')}); correct config.json, "
            "generation_config.json or the tokenizer of the host, or the task's generation_kwargs."
        ) from error
