"""Tasks that lm-eval's own classes answer: those that show images, and all of encoder-decoders."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.encoder_decoder import is_encoder_decoder
from evomerge.scores import SPLITS

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator


def check_stock(config: SearchConfig, evaluator: Evaluator, host: Checkpoint) -> None:
    """Check that what lm-eval itself answers can be answered for the merges of a host.

    Raises:
        ConfigError: a task shows images, and the host cannot see, or the tokenizer is another one
            than the host's; or what is asked for needs our own ways: likelihoods of reference
            answers, gradients, vLLM.
    """
    of_split = (evaluator.tasks_of(split) for split in SPLITS)
    infos = {
        name: info
        for tasks in of_split
        if tasks.harness is not None
        for name, info in tasks.harness.info.tasks.items()
    }
    shown = [name for name, info in infos.items() if info.shows_images]
    if shown:
        _check_images(config, shown[0], host)
    if infos and is_encoder_decoder(host):
        what = f"the host {host.reference!r} is an encoder-decoder, whose tasks lm-eval itself runs"
        _check_wanted(config, evaluator, [*infos], what, "take causal language models")
    elif shown:
        what = f"task {shown[0]!r} shows images, so lm-eval itself generates its answers"
        _check_wanted(config, evaluator, shown, what, "take tasks without images")


def _check_images(config: SearchConfig, task: str, host: Checkpoint) -> None:
    from evomerge.evaluation.inference.reference import processor_of

    if "vision" not in host.modalities:
        raise ConfigError(
            f"objectives: task {task!r} shows images, but the host {host.reference!r} has no "
            "vision tower; set `space.host` to a parent that sees."
        )
    if config.tokenizer not in ("base", "union", host.reference):
        raise ConfigError(
            f"`tokenizer` is {config.tokenizer!r}, but task {task!r} shows images, and the "
            "processor of images needs the host's tokens; set it to base, union or "
            f"{host.reference!r}."
        )
    processor_of(host.folder, None)


def _check_wanted(
    config: SearchConfig, evaluator: Evaluator, tasks: list[str], what: str, instead: str
) -> None:
    wanted = {
        "evaluation.backend is 'vllm'": config.evaluation.backend == "vllm",
        "optimizer uses gradients": config.optimizer.descends,
        "an objective or constraint is `nll`": bool({*evaluator.referenced} & {*tasks}),
    }
    for key in (key for key, is_wanted in wanted.items() if is_wanted):
        raise ConfigError(
            f"objectives: {what}, but {key}, which it cannot do; change this, or {instead}."
        )
