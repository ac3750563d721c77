"""Freezing a problem: what a run keeps, so that it goes on as it began."""

import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evomerge.compat.blas import instruction_variables, linear_algebra
from evomerge.config.schema import Frozen, SearchConfig
from evomerge.device import LIMITS, processor
from evomerge.evaluation.inference.vllm_start import installed_vllm
from evomerge.evaluation.objectives import kinds_of
from evomerge.problem.problem import Problem
from evomerge.problem.tasks import task_digests, task_facts
from evomerge.space.protocol import Gene

PACKAGES = (
    "evomerge", "torch", "transformers", "nevergrad", "cma", "cmaes", "optuna", "scipy", "numba",
    "numpy",
)  # fmt: skip
"""Packages whose versions may change the course of a search or the bits of a model."""

_SEEN = {*LIMITS, "ATEN_CPU_CAPABILITY", "OPENBLAS_CORETYPE"}
"""Environment variables whose effect is in `processor` or `linear_algebra` of a manifest."""


def freeze(problem: Problem) -> dict[str, Any]:
    """Return the manifest of a run: `config`, with all that was resolved, and `Frozen`."""
    plain = problem.config.model_dump(mode="json")
    for key in ("objectives", "constraints"):
        for item, objective in zip(plain[key], getattr(problem, key), strict=True):
            item["metric"] = objective.metric
    return {
        "config": plain,
        "versions": installed_versions(problem.config),
        "processor": processor(),
        "linear_algebra": linear_algebra(),
        "instructions": instruction_variables(),
        "parents": {name: item.fingerprint for name, item in problem.checkpoints.items()},
        "unlike_merges": list(problem.unlike_merges),
        "documents": {
            split: {task: list(ids) for task, ids in documents.items()}
            for split, documents in problem.splits.items()
        },
        "tasks": task_digests(problem.evaluator, problem.splits),
        **task_facts(problem.config, problem.evaluator),
        **({"sees": True} if any(it.needed_parts() for it in problem.evaluator.every) else {}),
        "fewer_documents": problem.fewer_documents,
        "genes": [gene.name for gene in problem.space.genes],
        "gene_ranges": _ranges(problem.space.genes),
        "start": [list(genome) for genome in problem.start],
        "allow_code": problem.allowed.allow_code,
        "trust_code": problem.allowed.trust_code,
        "lower_is_better": [o.key for o in problem.objectives if not o.higher_is_better],
    }


def _ranges(genes: Sequence[Gene]) -> list[dict[str, Any]]:
    names: dict[tuple[Any, ...], list[str]] = {}
    for gene in genes:
        of_range = (gene.kind, float(gene.low), float(gene.high), gene.choices)
        names.setdefault(of_range, []).append(gene.name)
    return [
        {"genes": genes_of, "kind": kind, "low": low, "high": high}
        | ({"choices": list(choices)} if choices else {})
        for (kind, low, high, choices), genes_of in names.items()
    ]


def installed_versions(config: SearchConfig) -> dict[str, str]:
    """Return the installed versions of what a search uses, `none` for what is not installed."""

    packages = PACKAGES + tuple(name for kind in kinds_of(config) for name in kind.packages)
    versions = {"python": platform.python_version()} | {n: package_version(n) for n in packages}
    if config.evaluation.backend == "vllm" and (vllm := installed_vllm()) is not None:
        versions |= {vllm[0]: vllm[1]}
    return versions


def changes_since(config: SearchConfig) -> Iterator[str]:
    """Yield a warning if a run goes on with other versions or libraries, or on another processor.

    What the manifest of an older run does not name is not compared.
    """
    began, versions, here = config.frozen or Frozen(), installed_versions(config), processor()
    changed = [
        f"{name} {then} (now {now})"
        for name, then in began.versions.items()
        if (now := versions.get(name) or package_version(name)) != then
    ]
    if began.processor not in ("", here):
        changed.append(f"another kind of processor, {began.processor} (now {here})")
    libraries = linear_algebra()
    changed += [
        f"{then} in {package} (now {libraries[package]})"
        for package, then in began.linear_algebra.items()
        if libraries.get(package, then) != then
    ]
    if began.instructions is not None:
        variables = instruction_variables()
        changed += [
            f"{name} {began.instructions.get(name, 'unset')} (now {variables.get(name, 'unset')})"
            for name in sorted({*began.instructions, *variables} - _SEEN)
            if began.instructions.get(name) != variables.get(name)
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
