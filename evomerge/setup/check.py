"""Checking a search file and all that it names. No weights are read, and no model is run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.config.space import SwapsConfig
from evomerge.errors import ConfigError
from evomerge.models.causal import check_causal, check_chat_template, check_known, check_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.encoder_decoder import is_encoder_decoder
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.classifiers import check_classifiers, check_texts
from evomerge.setup.descents import check_descents
from evomerge.setup.encoders import check_encoders, check_scores
from evomerge.setup.memory import check_fit
from evomerge.setup.parents import open_parents, plan_tokenizers
from evomerge.setup.place import place
from evomerge.setup.racing import resolve_racing
from evomerge.setup.recipes import START, check_recipes, sample_recipes
from evomerge.setup.settings import with_unlike_parents
from evomerge.setup.space import make_space
from evomerge.setup.starts import find_starts
from evomerge.setup.stock import check_stock
from evomerge.setup.strategy import generation_of, resolve_optimizer
from evomerge.setup.tasks import (
    check_references,
    check_rows,
    find_constraints,
    find_objectives,
    find_splits,
    is_causal,
    load_tasks,
)
from evomerge.setup.worker import serves_paths
from evomerge.setup.workers import check_workers, resolve_order
from evomerge.strategy.kinds import check_no_ties, strategy_kind
from evomerge.trust.consent import NOTHING, Permissions

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.merging.tokenizers.plan import TokenizerPlan

_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Keys of a config that often differ between parents and do not change the model that is built."""


def check_search(
    config: SearchConfig,
    relative_to: Path,
    allowed: Permissions = NOTHING,
    *,
    gpu_memory: int | None = None,
) -> CheckedSearch:
    """Check a search file and all that it names: parents, shapes, tasks, metrics, documents.

    The first mistake raises an `InputError`.

    Args:
        gpu_memory: see `CheckedSearch`.
    """
    config, checkpoints, host = open_parents(config, relative_to)
    _check_host(config, checkpoints[host])
    _check_models(checkpoints, host)
    if config.encoders:
        check_encoders(checkpoints, host)
    space = make_space(config, checkpoints)
    config = resolve_optimizer(config, space)
    check_rows(config)
    evaluator = load_tasks(config, allowed)
    check_stock(config, evaluator, checkpoints[host])
    if config.classifiers:
        check_classifiers(checkpoints, host, evaluator)
    objectives = find_objectives(config, evaluator)
    constraints = find_constraints(config, evaluator)
    splits, left_out = find_splits(config, evaluator)
    check_references(evaluator, splits)
    check_scores(evaluator, splits)
    config, fewer = resolve_racing(config, objectives, evaluator.info, splits["search"])
    kind = strategy_kind(config.optimizer.name)
    if kind is not None:
        check_no_ties(config)
        kind.check(config, objectives, evaluator.info)
    if config.optimizer.descends:
        check_descents(config, space, objectives, evaluator, splits["search"])
    place(config).check(checkpoints[host].config, config.dtype)
    check_workers(config)
    _check_engine(config, checkpoints, host)
    generation = generation_of(config, space)
    config = resolve_order(config, max(2, generation) if config.optimizer.descends else generation)
    start = find_starts(config, space, relative_to)
    recipes = sample_recipes(space)
    tokenizers = plan_tokenizers(
        config, [*space.baselines().values(), *recipes.values()], checkpoints
    )
    check_recipes(recipes, checkpoints, host, tokenizers[0].rows)
    from evomerge.merging.backend import tokenizer

    of_merges = tokenizer(checkpoints, recipes[START])
    check_texts(evaluator, of_merges, host)
    _check_generation(config, checkpoints[host], tokenizers[0], evaluator)
    checked = CheckedSearch(
        config,
        checkpoints,
        host,
        space,
        objectives,
        splits,
        constraints,
        fewer,
        evaluator,
        start,
        allowed=allowed,
        gpu_memory=gpu_memory,
        left_out=left_out,
    )
    check_fit(checked)
    return with_unlike_parents(checked)


def _check_host(config: SearchConfig, host: Checkpoint) -> None:
    """Check that transformers can run the model that gives config and tokenizer."""
    check_causal(host) if is_causal(config) else check_known(host)
    if config.tokenizer == "base":
        check_tokenizer(host)
        if config.evaluation.chat_template and is_causal(config):
            check_chat_template(host)


def _check_models(checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Check that transformers can build the host, and the other parents whose types it knows.

    Parents with equal configs and shapes are one model here, of which one is checked.
    """
    from evomerge.merging.architecture.depth import built_config
    from evomerge.merging.architecture.loadable import check_buildable
    from evomerge.merging.architecture.loading import is_known

    known = []
    for checkpoint in sorted(checkpoints.values(), key=lambda item: item.reference != host):
        config = built_config(checkpoint)
        content = (
            {key: value for key, value in config.items() if key not in _NOT_OF_THE_MODEL},
            {name: info.shape for name, info in checkpoint.tensors.items()},
        )
        if content in known:
            continue
        if checkpoint.reference == host or is_known(config.get("model_type")):
            check_buildable(checkpoint, config)
        known.append(content)


def _check_engine(config: SearchConfig, checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Check that one vLLM engine can serve paths that differ in depth or in the order of layers."""
    from evomerge.merging.architecture.identity import check_identity_layers, has_fixed_layers

    in_place = isinstance(config.space, SwapsConfig)
    if serves_paths(config) and not (in_place and has_fixed_layers(checkpoints, host)):
        check_identity_layers(checkpoints, host)


def _check_generation(
    config: SearchConfig, host: Checkpoint, plan: TokenizerPlan, evaluator: Evaluator
) -> None:
    """Check that texts can be generated with the generation config of the merged models."""
    _, setting = slow_setting(host, plan, evaluator)
    if setting is None:
        return
    if config.evaluation.backend == "vllm":
        raise ConfigError(
            f"evaluation.backend is 'vllm', which generates greedily or samples, but "
            f"{host.reference!r} also sets {setting!r} in generation_config.json; remove it there, "
            "or use the backend 'hf'."
        )


def slow_setting(
    host: Checkpoint, plan: TokenizerPlan, evaluator: Evaluator
) -> tuple[Any, str | None]:
    """Return the generation config of merged models, and a setting of it that needs lm-eval itself.

    Our own generation does not support such a setting. There is none if no task generates texts,
    or if lm-eval itself generates all of them.
    """
    from evomerge.evaluation.inference.generation import unsupported_setting
    from evomerge.merging.architecture.loading import generation_config
    from evomerge.merging.tokenizers.plan import GENERATION

    tasks = [task for task in evaluator.info.tasks.values() if task.kind == "generate_until"]
    if not tasks or is_encoder_decoder(host):
        return None, None
    settings = generation_config(host.config, plan.files.get(GENERATION, host.generation))
    sampled = any(task.is_sampled for task in tasks)
    return settings, settings and unsupported_setting(settings, sampled=sampled)
