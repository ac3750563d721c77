"""Checking a search file and all that it names. No weights are read, and no model is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.config.space import SwapsConfig
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.batches import pass_overhead
from evomerge.evaluation.inference.device import choose_device
from evomerge.evaluation.objectives import kinds_of, load, needs_modules
from evomerge.merging.architecture.depth import built_config
from evomerge.merging.architecture.loadable import check_buildable
from evomerge.models.causal import check_causal, check_known, check_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.scores import Objective
from evomerge.setup import tasks
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.memory import check_fit
from evomerge.setup.parents import open_parents, plan_tokenizers
from evomerge.setup.parents_as_themselves import differences
from evomerge.setup.space import check_recipes, make_space, sample_recipes
from evomerge.setup.strategy import check_descents, find_starts, generation_of, resolve_optimizer
from evomerge.setup.worker import place, resolve_float32, serves_paths
from evomerge.setup.workers import check_workers, resolve_order
from evomerge.strategy.kinds import check_no_ties, strategy_kind
from evomerge.trust.consent import NOTHING, Permissions

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TasksInfo

_SAMPLES = 6
"""So many first samples the search documents must be at least, so that racing saves time."""

_GENERATIONS, _GENERATION = 40, 10
"""With fewer generations, of so many candidates at least, a search finds worse merges by estimates
than by all documents. In the same time, racing finds better ones (docs/racing.md)."""


def check_search(
    config: SearchConfig, relative_to: Path, allowed: Permissions = NOTHING
) -> CheckedSearch:
    """Check a search file and all that it names: parents, shapes, tasks, metrics, documents.

    The first mistake raises an `InputError`. What `search_file` checks was checked before.
    """
    from evomerge.merging.architecture.identity import check_identity_layers, has_fixed_layers
    from evomerge.merging.architecture.modules import check_modules

    config, checkpoints, host = open_parents(config, relative_to)
    writes = any(kind.writes for kind in kinds_of(config))
    (check_causal if writes else check_known)(checkpoints[host])
    if config.tokenizer == "base":
        check_tokenizer(checkpoints[host])
    _check_models(checkpoints, host)
    for name, checkpoint in checkpoints.items() if needs_modules(config) else ():
        if name == host or checkpoint.modules is not None:
            check_modules(checkpoint)
    space = make_space(config, checkpoints)
    config = resolve_optimizer(config, space)

    evaluator = load(config, allowed)
    objectives = tasks.find_objectives(config, evaluator)
    constraints = tasks.find_constraints(config, evaluator)
    splits = tasks.find_splits(config, evaluator)

    generation = generation_of(config, space)
    about = (objectives, evaluator.info, splits["search"], generation)
    config, fewer = resolve_racing(config, *about)
    if (kind := strategy_kind(config.optimizer.name)) is not None:
        check_no_ties(config)
        kind.check(config, objectives, evaluator.info)
    if config.optimizer.descends:
        check_descents(config, space, objectives, evaluator, splits["search"])
    config = resolve_float32(config)
    place(config).check(checkpoints[host].config, config.compute)
    check_workers(config)
    is_swap = isinstance(config.space, SwapsConfig)  # one vLLM engine serves paths of all depths
    if serves_paths(config) and not (is_swap and has_fixed_layers(checkpoints, host)):
        check_identity_layers(checkpoints, host)
    config = resolve_order(config, max(2, generation) if config.optimizer.descends else generation)
    start = find_starts(config, space, relative_to)

    recipes = sample_recipes(space)
    every = [*space.baselines().values(), *recipes.values()]
    tokenizers = plan_tokenizers(config, every, checkpoints)
    check_recipes(recipes, checkpoints, host, tokenizers[0].rows)
    checked = CheckedSearch(
        config=config, checkpoints=checkpoints, host=host, space=space, objectives=objectives,
        splits=splits, constraints=constraints, fewer_documents=fewer, loaded=evaluator,
        start=start, allowed=allowed,
    )  # fmt: skip
    evaluator.check(checked.merges, splits)
    check_fit(checked)
    unlike = differences(checked)
    return replace(checked, unlike_merges=tuple(n for n in checked.config.parents if unlike[n]))


def _check_models(checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Check that transformers can build the host, and the other parents whose types it knows."""
    from evomerge.merging.architecture.loading import is_known

    # Parents with different adapters share a model.
    for checkpoint in {item.folder: item for item in checkpoints.values()}.values():
        config = built_config(checkpoint)
        if checkpoint.folder == checkpoints[host].folder or is_known(config.get("model_type")):
            check_buildable(checkpoint, config)


def resolve_racing(
    config: SearchConfig,
    objectives: Sequence[Objective],
    info: TasksInfo,
    search: Mapping[str, Sequence[int]],
    generation: int,
) -> tuple[SearchConfig, str]:
    """Return the search file with `evaluation.racing` set if it is `auto`, and why, for a person.

    Racing is enabled where it saves time and finds merges that are as good (docs/racing.md). If
    `minimum` documents are too few to fill batches, it is raised. `search`: task -> documents;
    `generation`: candidates in one.
    ConfigError: the search file asks for racing, but a metric is not a mean over documents, or
    there are too few documents.
    """
    wanted, total = config.evaluation.racing, sum(map(len, search.values()))
    others = (o for o in objectives if o.is_exact or not info.metric(o.task, o.metric)[1].is_mean)
    if wanted.enabled is True:
        if (other := next(others, None)) is not None:
            raise ConfigError(
                "`evaluation.racing` compares candidates document by document, but metric "
                f"{other.metric!r} of {other.task!r} is not a mean over documents; set "
                "`evaluation.racing.enabled` to false, or name the tasks of a group one by one."
            )
        if wanted.minimum >= total:
            raise ConfigError(
                f"`evaluation.racing` has `minimum` {wanted.minimum}, which leaves out none of "
                f"{total} search documents; lower it, or set `enabled` to false."
            )
    if wanted.enabled != "auto":
        return config, f"{'racing' if wanted.enabled else 'off'}, as the search file says"
    candidates, enough = config.budget.candidates, _GENERATIONS * max(_GENERATION, generation)
    reasons = {
        "it was measured in parameter spaces only": config.space.kind != "parameters",
        "it needs an optimizer of genes": strategy_kind(config.optimizer.name) is not None,
        "gp finds worse merges by estimates": config.optimizer.name == "gp",
        f"{config.beside_fitness}": config.beside_fitness is not None,
        "vLLM would load weights again for each sample": config.evaluation.backend != "hf",
        "the study is told the scores": config.is_study,
        f"searches of fewer than {enough} candidates find worse merges by estimates": (
            candidates is not None and candidates < enough
        ),
        "documents of an objective are not scored one by one": not all(
            kind.can_race for kind in kinds_of(config)
        ),
    }
    reason = next((reason for reason, holds in reasons.items() if holds), None)
    if reason is None and (other := next(others, None)) is not None:
        reason = f"{other.metric} is not a mean over documents"
    least = max(wanted.minimum, _full_batches(config, info, search))
    if reason is None and total < _SAMPLES * least:
        reason = f"it needs {_SAMPLES * least} documents, and there are {total}"
    chosen = {"enabled": reason is None, "minimum": wanted.minimum if reason else least}
    config = config.with_values("evaluation", racing=wanted.model_copy(update=chosen))
    if reason is not None:
        return config, f"off, since {reason}"
    return config, f"racing, since {total} documents make {total // least} samples of {least}"


def _full_batches(
    config: SearchConfig, info: TasksInfo, search: Mapping[str, Sequence[int]]
) -> int:
    """Return how many documents fill batches: with more, a document takes little less time.

    A batch should have half as many texts as the tokens that cost as much as starting a forward
    pass, and each task that generates texts has batches of its own.
    """
    wanted = config.evaluation
    device = choose_device(wanted.device) if wanted.device_map is None else "accelerators"
    generating = sum(info.tasks[task].generates for task in search)
    return generating * pass_overhead(device) // 2
