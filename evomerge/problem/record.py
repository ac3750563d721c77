"""The record of a problem: what a run keeps, so that it can be resumed as it began."""

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evomerge.compat.blas import instruction_variables, linear_algebra
from evomerge.config.record import GeneRange, Record
from evomerge.config.schema import SearchConfig
from evomerge.device import LIMITS, processor
from evomerge.evaluation.objectives import kinds_of
from evomerge.problem.problem import Problem
from evomerge.problem.tasks import task_digests, task_facts
from evomerge.space.protocol import Gene

PACKAGES = ("evomerge", "torch", "transformers", "numba", "numpy")
"""Packages whose versions may change the bits of a model, whatever the search is."""

_SEEN = {*LIMITS, "ATEN_CPU_CAPABILITY", "OPENBLAS_CORETYPE"}
"""Environment variables whose effect is in `processor` or `linear_algebra` of a manifest."""


def record_of(problem: Problem, folder: str = "") -> Record:
    """Return the record of a problem; `folder` is where relative paths in its file start from."""
    config = problem.config
    full_names = {
        key: [
            section.model_copy(update={"metric": measured.metric})
            for section, measured in zip(getattr(config, key), getattr(problem, key), strict=True)
        ]
        for key in ("objectives", "constraints")
    }
    return Record(
        folder=folder,
        config=config.model_copy(update=full_names),
        versions=installed_versions(config),
        processor=processor(),
        linear_algebra=linear_algebra(),
        instructions=instruction_variables(),
        parents={name: parent.fingerprint for name, parent in problem.checkpoints.items()},
        unlike_merges=list(problem.unlike_merges),
        documents={
            split: {task: list(ids) for task, ids in documents.items()}
            for split, documents in problem.splits.items()
        },
        tasks=task_digests(problem.evaluator, problem.splits),
        **task_facts(config, problem.evaluator),
        sees=any(objective.needed_parts() for objective in problem.evaluator.every),
        fewer_documents=problem.fewer_documents,
        genes=[gene.name for gene in problem.space.genes],
        gene_ranges=_ranges(problem.space.genes),
        start=[list(genome) for genome in problem.start],
        allow_code=problem.allowed.allow_code,
        trust_code=problem.allowed.trust_code,
        lower_is_better=[o.key for o in problem.objectives if not o.higher_is_better],
    )


def _ranges(genes: Sequence[Gene]) -> list[GeneRange]:
    names: dict[tuple[Any, ...], list[str]] = {}
    for gene in genes:
        bounds = (gene.kind, float(gene.low), float(gene.high), gene.choices)
        names.setdefault(bounds, []).append(gene.name)
    return [
        GeneRange(genes=alike, kind=kind, low=low, high=high, choices=list(choices))
        for (kind, low, high, choices), alike in names.items()
    ]


def installed_versions(config: SearchConfig) -> dict[str, str]:
    """Return the installed versions of what a search uses, `none` for what is not installed."""

    packages = [*PACKAGES, *config.optimizer.packages]
    packages += [name for kind in kinds_of(config) for name in kind.packages]
    versions = {"python": platform.python_version()} | {n: package_version(n) for n in packages}
    return {**versions, **config.evaluation.engine.versions()}


def changes_since(record: Record) -> Iterator[str]:
    """Yield a warning if a run goes on with other versions or libraries, or on another processor.

    What the manifest of an older run does not name is not compared.
    """
    versions, here = installed_versions(record.config), processor()
    changed = [
        f"{name} {then} (now {now})"
        for name, then in record.versions.items()
        if (now := versions.get(name) or package_version(name)) != then
    ]
    if record.processor not in ("", here):
        changed.append(f"another kind of processor, {record.processor} (now {here})")
    libraries = linear_algebra()
    changed += [
        f"{then} in {package} (now {libraries[package]})"
        for package, then in record.linear_algebra.items()
        if libraries.get(package, then) != then
    ]
    if record.instructions is not None:
        variables = instruction_variables()
        changed += [
            f"{name} {record.instructions.get(name, 'unset')} (now {variables.get(name, 'unset')})"
            for name in sorted({*record.instructions, *variables} - _SEEN)
            if record.instructions.get(name) != variables.get(name)
        ]
    if changed:
        yield (
            f"The run began with {', '.join(changed)}. Scores are as right here, but their last "
            "digits and the course of the search may differ; for the same search, go on with these."
        )


def package_version(package: str) -> str:
    """Return the version of a package, or `none` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
