"""What lm-eval asks of a model, and its own class of models, HFLM: the reference for tokens."""

import gc
import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

from torch import nn

from evomerge.compat.lm_eval import encode_pair, replace_model, seeing
from evomerge.errors import CandidateError, ConfigError, blaming
from evomerge.evaluation.inference import generation
from evomerge.evaluation.inference.generation import SETTINGS, Prompt, Sampling, is_sampled
from evomerge.evaluation.inference.likelihood import LogLikelihood
from evomerge.evaluation.inference.rows import Continuation
from evomerge.models.files import PROCESSOR_FILES
from evomerge.trust.calls import SEED, calling
from evomerge.trust.templates import limited_chat_templates

Instance: TypeAlias = Any


@dataclass(frozen=True)
class Request:
    """An lm-eval `Instance`, whose `resps` the answer goes into, and its tokens.

    Attributes:
        continuations: what is scored: one for `loglikelihood`, one for each window of the text for
            `loglikelihood_rolling`, none for `generate_until` and encoder-decoders.
        prompts: what is continued: one, or one for each text that is sampled; none where lm-eval
            itself answers, as with beams or penalties.
        seeds: the seeds of the texts that are sampled in answer, one for each repeat of the task.
        generated: number of tokens of each text that was generated, its end token included.
    """

    instance: Instance
    continuations: tuple[Continuation, ...] = ()
    _: KW_ONLY
    prompts: tuple[Prompt, ...] = ()
    seeds: tuple[int, ...] = ()
    generated: list[int] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """`loglikelihood`, `loglikelihood_rolling` or `generate_until`."""
        return str(self.instance.request_type)

    def answer_texts(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Store a text for each repeat of the task, or one for all, and their numbers of tokens."""
        self.instance.resps = [*texts] * (self.instance.repeats // len(texts))
        self.generated[:] = tokens

    def answer_scored(self, parts: Sequence[LogLikelihood]) -> None:
        """Store the log-likelihoods of the continuations as the answer, once for each repeat.

        Raises:
            CandidateError: one is NaN.
        """
        is_rolling = self.kind == "loglikelihood_rolling"
        if any(math.isnan(total) for total, _ in parts):
            raise CandidateError("The model's log-likelihoods are not numbers (NaN).")
        answer = sum(total for total, _ in parts) if is_rolling else parts[0]
        self.instance.resps = [answer] * self.instance.repeats


@dataclass(frozen=True)
class Reasoning:
    """How models that reason before they answer are run; both as in `HFLM`.

    `enabled` is the option `enable_thinking` of the chat template (None: it is not passed); `end`
    is the text or token id that ends the reasoning: only what is behind it is the answer.
    """

    enabled: bool | None = None
    end: str | int | None = None


class ReferenceLM:
    """An HFLM around a model in memory; tokenises and generates exactly as lm-eval does.

    With `sees`, texts are generated for images, by lm-eval's class for models that see; the
    processor is that of the folder which the model names.

    Attributes:
        is_alone: whether lm-eval itself answers all requests, as with an encoder-decoder.

    Raises:
        ConfigError: as `processor_of`.
    """

    def __init__(
        self, model: Any, tokenizer: Any, reasoning: Reasoning = Reasoning(), *, sees: bool = False
    ) -> None:
        self._reasoning = reasoning
        self._defaults = model.generation_config
        self.is_alone = bool(model.config.is_encoder_decoder)
        with calling():
            from lm_eval.models.huggingface import HFLM

            kind = seeing(processor_of(str(model.name_or_path), tokenizer)) if sees else HFLM
            self._lm = kind(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=1,
                backend="seq2seq" if self.is_alone else "default",
                enable_thinking=reasoning.enabled,
                think_end_token=reasoning.end,
            )
        self.max_length: int = self._lm.max_length
        self.tokenizer_name: str = self._lm.tokenizer_name
        self._end = self._lm.tok_decode(self._lm.eot_token_id, skip_special_tokens=False)

    def chat_template(self, *arguments: Any, **options: Any) -> str:
        """Return a chat as text, as `HFLM.apply_chat_template`.

        Raises:
            ConfigError: the template of the model cannot be used.
        """
        why = (
            "The chat template of the model cannot be used ({error}); correct it in the folder of "
            "the parent that it comes from, or set evaluation.chat_template to false."
        )
        with blaming(ConfigError, why), limited_chat_templates():
            return str(self._lm.apply_chat_template(*arguments, **options))

    def request(self, instance: Instance, name: str = "") -> Request:
        """Return the tokenised request of an lm-eval `Instance`.

        `name` identifies its document. Sampled texts get their seeds from it, the place of the
        instance in its document, and the number of the repeat.
        """
        if instance.request_type == "generate_until":
            context, options, *images = instance.args
            repeats = range(instance.repeats if is_sampled(options) else 0)
            names = (f"{name}/{instance.idx}/{repeat}" for repeat in repeats)
            seeds = tuple(map(generation.seed_of, names))
            if images or self.is_alone:
                return Request(instance, seeds=seeds)
            prompts = self._prompts(instance.task_name, context, options, seeds)
            return Request(instance, prompts=prompts, seeds=seeds)
        if self.is_alone:
            return Request(instance)
        is_rolling = instance.request_type == "loglikelihood_rolling"
        pairs = self._windows(*instance.args) if is_rolling else [self._pair(*instance.args)]
        return Request(instance, tuple(Continuation.of(*pair, self.max_length) for pair in pairs))

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a context and of its continuation, as in `HFLM.loglikelihood`."""
        if context:
            before, after = encode_pair(self._lm, context, continuation)
        else:
            tokens = self._lm.tok_encode(continuation, add_special_tokens=False)
            prefix = self._lm.prefix_token_id
            begins = tokens[:1] == [prefix]
            before, after = (tokens[:1], tokens[1:]) if begins else ([prefix], tokens)
        if not before or not after:
            text = continuation if before else context
            raise ConfigError(
                f"objectives: the tokenizer makes no tokens of {text[:40]!r}, so nothing can be "
                "scored; check that tokenizer.json belongs to the model's architecture."
            )
        return before, after

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        """Return the (context, continuation) windows that `loglikelihood_rolling` sums over."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows = get_rolling_token_windows(
            token_list=self._lm.tok_encode(text),
            prefix_token=self._lm.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        return [make_disjoint_window(window) for window in windows]

    def _prompts(
        self, task: str | None, context: str, options: Mapping[str, Any], seeds: Sequence[int]
    ) -> tuple[Prompt, ...]:
        """Return the prompt of a `generate_until` request, as HFLM would feed it, with each seed.

        There is none if the options, the task's `generation_kwargs`, ask for more than greedy
        decoding or sampling (beams, penalties) or for what transformers refuses, or the model's
        generation config has a setting that our own generation does not support.

        Raises:
            ConfigError: the task asks for more new tokens than the model can read, or samples with
                values that nothing can be drawn with.
        """
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        rest = dict(normalize_gen_kwargs(dict(options), self._lm.max_gen_toks))
        stops = handle_stop_sequences(rest.pop("until", None), eos=self._end)
        limit = int(rest.pop("max_gen_toks"))
        others = rest.keys() - {"do_sample", *SETTINGS}  # the last do not change greedy decoding
        room = self.max_length - limit
        if room <= 0:
            raise ConfigError(
                f"objectives: task {task!r} asks for {limit} new tokens, but the model reads at "
                f"most {self.max_length} tokens in all; lower max_gen_toks in the task's YAML."
            )
        if others or generation.unsupported_setting(self._defaults):
            return ()
        try:
            sampling = Sampling.of(rest, self._defaults) if is_sampled(rest) else None
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"objectives: task {task!r} samples texts with wrong generation_kwargs ({error}); "
                "correct them in its YAML, or set do_sample to false."
            ) from error
        tokens = self._lm.tok_batch_encode([context], left_truncate_len=room)[0][0].tolist()
        prompt = Prompt(tuple(tokens), tuple(stop for stop in stops if stop), limit, sampling)
        return tuple(replace(prompt, seed=seed) for seed in seeds) or (prompt,)

    def answered(self, request: Request, answer: str, *, ended: bool) -> Continuation:
        """Return an answer to a `generate_until` request as a continuation of its prompt.

        `ended` is whether the end token follows the answer.
        """
        tokens = self._lm.tok_encode(answer, add_special_tokens=False)
        tokens = [*tokens, self._lm.eot_token_id] if ended else tokens
        prompts, text = request.prompts, request.instance.args[0]
        context = prompts[0].tokens if prompts else self._lm.tok_encode(text)
        return Continuation.of(context, tokens, self.max_length)

    def answer(self, request: Request, generated: Sequence[Sequence[int]]) -> None:
        """Store the new tokens of each of the request's `prompts` as its answers."""
        texts = [self.text(tokens, request.prompts[0].stops) for tokens in generated]
        request.answer_texts(texts, [len(tokens) for tokens in generated])

    def text(self, tokens: Sequence[int], stops: Sequence[str]) -> str:
        """Return generated tokens as text: behind the reasoning, up to the first stop sequence."""
        from lm_eval.models.utils import postprocess_generated_text

        answer, end = list(tokens), self._reasoning.end
        if isinstance(end, int):
            answer = answer[len(answer) - answer[::-1].index(end) :] if end in answer else answer
            text, end = self._lm.tok_decode(answer).lstrip(), None
        else:
            text = self._lm.tok_decode(answer)
        return str(postprocess_generated_text(text, stop=list(stops), think_end_token=end))

    def answer_alone(self, model: nn.Module, request: Request) -> None:
        """Store what lm-eval itself answers to a request: texts, or a log-likelihood."""
        if request.kind == "generate_until":
            seeds = request.seeds or (SEED,)
            texts = [self._text(model, request.instance, seed) for seed in seeds]
            counts = [len(self._lm.tok_encode(text, add_special_tokens=False)) for text in texts]
            request.answer_texts(texts, counts)
            return
        replace_model(self._lm, model)
        with calling(SEED):
            (answer,) = getattr(self._lm, request.kind)([request.instance], disable_tqdm=True)
        is_rolling = request.kind == "loglikelihood_rolling"
        request.answer_scored([(answer, False) if is_rolling else answer])

    def _text(self, model: nn.Module, instance: Instance, seed: int) -> str:
        """Return the text that lm-eval generates for an instance."""
        replace_model(self._lm, model)
        gc.freeze()  # it collects garbage after each image, which takes long beside many objects
        try:
            with calling(seed):
                return str(self._lm.generate_until([instance], disable_tqdm=True)[0])
        finally:
            gc.unfreeze()


def processor_of(folder: str | Path, tokenizer: Any) -> Any:
    """Return what prepares images and texts for the model in a folder, with this tokenizer.

    Raises:
        ConfigError: transformers finds none there, or a package for images is missing.
    """
    from transformers import AutoProcessor

    with blaming(
        ConfigError,
        f"objectives: a task shows images, but {str(folder)!r} has no processor of images that "
        "transformers can load ({reason}); give a model that sees, with the files of its "
        "processor, and install Pillow.",
    ):
        if not any((Path(folder) / name).is_file() for name in PROCESSOR_FILES):
            raise FileNotFoundError("no preprocessor_config.json or processor_config.json")
        load: Any = AutoProcessor.from_pretrained
        processor = load(folder, trust_remote_code=False)
    processor.tokenizer = tokenizer
    return processor
