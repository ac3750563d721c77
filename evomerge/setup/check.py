"""Checking a search file, and freezing it into a run.

`check_search` makes a checked search of a search file and raises the first mistake; it reads no
weights and runs no model. `freeze` turns that into the search file of a run, and `restore` turns
this file into the checked search again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.config.frozen import frozen_constraints, frozen_objectives, frozen_splits
from evomerge.config.schema import Frozen, SearchConfig
from evomerge.models.causal import check_causal, check_chat_template, check_known, check_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import MERGE, RUN
from evomerge.recipe import Recipe
from evomerge.run.folder import MODELS
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.code_files import is_permitted
from evomerge.setup.engine import check_engine
from evomerge.setup.executor import check_executor, check_workers, resolve_order
from evomerge.setup.generation import check_generation
from evomerge.setup.genes import gene_ranges
from evomerge.setup.memory import check_fit
from evomerge.setup.merges import MergeOpener, Opener
from evomerge.setup.parents import open_parents, plan_tokenizers
from evomerge.setup.pins import merged_parents
from evomerge.setup.racing import check_racing, resolve_racing
from evomerge.setup.recipes import START, check_baselines, check_recipes, sample_recipes
from evomerge.setup.settings import with_settings
from evomerge.setup.space import make_space
from evomerge.setup.starts import find_starts
from evomerge.setup.strategy import generation_of, resolve_optimizer
from evomerge.setup.task_digests import code_digests, task_digests
from evomerge.setup.tasks import (
    datasets,
    find_constraints,
    find_objectives,
    find_splits,
    load_tasks,
    sampled,
    sources,
)
from evomerge.setup.versions import installed_versions
from evomerge.setup.worker import check_placement
from evomerge.strategy.kinds import strategy_kind
from evomerge.trust.consent import Consent

_NOT_OF_THE_MODEL = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
"""Keys of a config that often differ between parents and do not change the model that is built."""


def check_search(
    config: SearchConfig,
    relative_to: Path,
    opener: Opener,
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    consent: Consent | None = None,
    is_stage: bool = False,
) -> CheckedSearch:
    """Check a search file and all that it names: parents, shapes, tasks, metrics, documents.

    Args:
        config: a parsed search file.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
        opener: opens a parent.
        allow_pickle: accept parents with pickled weights.
        allow_code: accept tasks that run code which models write.
        consent: decides whether the code of tasks and functions may run; None: if it was allowed
            before.
        is_stage: whether `run:../stage-N` is the winner of an earlier stage; see `open_parents`.

    Raises:
        InputError: the first mistake.
    """
    consent = consent or Consent()
    check_executor(config)
    merges = MergeOpener(opener)
    config, checkpoints, host = open_parents(
        config, relative_to, merges, allow_pickle=allow_pickle, is_stage=is_stage
    )
    _check_host(config, checkpoints[host])
    _check_models(checkpoints, host)
    space = make_space(config, checkpoints)
    config = resolve_optimizer(config, space)
    check_baselines(config, space)
    evaluator = load_tasks(config, allow_code=allow_code, consent=consent)
    objectives = find_objectives(config, evaluator)
    constraints = find_constraints(config, evaluator)
    splits = find_splits(config, evaluator)
    config, fewer = resolve_racing(config, objectives, evaluator.info, splits["search"])
    check_racing(config, objectives, evaluator.info, splits["search"])
    kind = strategy_kind(config.optimizer.name)
    if kind is not None:
        kind.check(config, objectives, evaluator.info)
    check_placement(config, checkpoints[host])
    check_fit(config, checkpoints[host])
    check_workers(config)
    check_engine(config, checkpoints, host)
    config = resolve_order(config, generation_of(config, space))
    start = find_starts(config, space, relative_to)
    recipes = sample_recipes(space)
    tokenizers = plan_tokenizers(
        config, [*space.baselines().values(), *recipes.values()], checkpoints
    )
    check_recipes(recipes, checkpoints, host, tokenizers[0].rows)
    _check_tokenizer(recipes[START], checkpoints)
    check_generation(config, checkpoints[host], tokenizers[0], evaluator)
    checked = CheckedSearch(
        config,
        checkpoints,
        host,
        space,
        objectives,
        splits,
        fewer_documents=fewer,
        allow_pickle=allow_pickle,
        loaded=evaluator,
        constraints=constraints,
        start=start,
        merges=merges.found,
        allow_code=allow_code,
        consent=consent,
    )
    return with_settings(checked)


def _check_host(config: SearchConfig, host: Checkpoint) -> None:
    """Check that transformers can run the model that gives config and tokenizer."""
    from evomerge.evaluation.tasks.functions import is_function

    functions_only = all(map(is_function, config.tasks))
    check_known(host) if functions_only else check_causal(host)
    if config.tokenizer == "base":
        check_tokenizer(host)
        if config.evaluation.chat_template and not functions_only:
            check_chat_template(host)


def _check_tokenizer(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Check that transformers can load the tokenizer of the candidates."""
    from evomerge.merging.backend import tokenizer

    tokenizer(checkpoints, recipe)


def _check_models(checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Check that transformers can build the host, and the other parents whose types it knows.

    Parents with equal configs and shapes are one model here, of which one is checked.
    """
    from evomerge.merging.architecture.buildable import check_buildable
    from evomerge.merging.architecture.depth import built_config
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


def restore(
    config: SearchConfig,
    relative_to: Path,
    opener: Opener,
    *,
    build: bool = True,
    allow_pickle: bool = False,
    allow_code: bool = False,
    consent: Consent | None = None,
) -> CheckedSearch:
    """Return the checked search of a run's frozen search file. Tasks are not loaded yet.

    That the file itself allows pickles or models' code counts only if the user has allowed them on
    this machine.

    Args:
        config: the frozen search file.
        relative_to: the run folder.
        opener: opens a parent.
        build: whether parents that are merges are built in the run folder if they are not there.
        allow_pickle: accept parents with pickled weights in any case.
        allow_code: accept tasks that run code which models write in any case.
        consent: decides whether the code of tasks and functions may run; None: if it was allowed
            before.

    Raises:
        InputError: a parent is missing or has changed.
    """
    frozen = config.frozen or Frozen()
    permitted = (frozen.allow_pickle or frozen.allow_code) and is_permitted(frozen)
    allow_pickle = allow_pickle or (frozen.allow_pickle and permitted)
    merges = MergeOpener(opener, frozen, relative_to / MODELS, build=build)
    config, checkpoints, host = open_parents(config, relative_to, merges, allow_pickle=allow_pickle)
    return CheckedSearch(
        config,
        checkpoints,
        host,
        make_space(config, checkpoints),
        frozen_objectives(config),
        frozen_splits(config),
        fewer_documents=frozen.fewer_documents,
        allow_pickle=allow_pickle,
        constraints=frozen_constraints(config),
        start=tuple(map(tuple, frozen.start)),
        settings=tuple(frozen.settings),
        unlike_merges=None if frozen.unlike_merges is None else tuple(frozen.unlike_merges),
        merges=merges.found,
        allow_code=allow_code or (frozen.allow_code and permitted),
        consent=consent or Consent(),
    )


def freeze(checked: CheckedSearch) -> dict[str, Any]:
    """Return the search file that a run keeps.

    Its section `frozen` has what must not change: versions, fingerprints of the parents, document
    ids, genes with their ranges, and metric directions.
    """
    plain = checked.config.model_dump(mode="json", exclude={"frozen"})
    for item, objective in zip(plain["objectives"], checked.objectives, strict=True):
        item["metric"] = objective.metric
    for item, constraint in zip(plain["constraints"], checked.constraints, strict=True):
        item["metric"] = constraint.metric
    # A merge may be made from another candidate of a run that is a parent, too.
    opened = {**dict(merged_parents(checked.merges)), **checked.checkpoints}
    plain["frozen"] = {
        "versions": installed_versions(checked.config),
        # A merge is built after this; its own parents stand for it.
        "parents": {
            name: item.fingerprint for name, item in opened.items() if not name.startswith(MERGE)
        },
        "models": {name: item.folder.name for name, item in opened.items() if name.startswith(RUN)},
        **({"merges": _frozen_merges(checked)} if checked.merges else {}),
        "settings": [item.model_dump() for item in checked.settings],
        "unlike_merges": list(checked.unlike_merges or ()),
        "documents": {
            split: {task: list(ids) for task, ids in documents.items()}
            for split, documents in checked.splits.items()
        },
        "sources": sources(checked.config, checked.evaluator),
        "tasks": task_digests(checked.evaluator, checked.splits),
        "code": code_digests(checked.config),
        "datasets": datasets(checked.config, checked.evaluator),
        "sampled": sampled(checked.config, checked.evaluator),
        "fewer_documents": checked.fewer_documents,
        "genes": [gene.name for gene in checked.space.genes],
        "gene_ranges": gene_ranges(checked),
        "start": [list(genome) for genome in checked.start],
        "allow_pickle": checked.allow_pickle,
        "allow_code": checked.allow_code,
        "lower_is_better": [o.key for o in checked.objectives if not o.higher_is_better],
    }
    return plain


def _frozen_merges(checked: CheckedSearch) -> dict[str, Any]:
    """Return what a run keeps of its parents that are merges."""
    return {
        name: {"recipe": item.recipe.to_dict(), "parents": dict(item.names)}
        for name, item in checked.merges.items()
    }
