"""The versions of Python and of the packages that scores may depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from evomerge.config.schema import SearchConfig

PACKAGES = (
    "evomerge", "torch", "transformers", "lm_eval", "nevergrad", "cma", "cmaes", "numba", "numpy",
)  # fmt: skip
"""Packages whose versions may change the course of a search or the bits of a model."""


def installed_versions(config: SearchConfig) -> dict[str, str]:
    """Return the installed versions, `none` for a package that is not installed.

    vLLM is among them if the search generates texts with it.
    """
    from evomerge.evaluation.inference.vllm_start import installed_vllm

    versions = {
        "python": platform.python_version(),
        **{name: package_version(name) for name in PACKAGES},
    }
    if config.evaluation.backend == "vllm" and (found := installed_vllm()) is not None:
        versions[found[0]] = found[1]
    return versions


def other_versions(config: SearchConfig) -> str:
    """Return a warning if a run goes on with other versions than it began with, or an empty text.

    Args:
        config: the frozen search file of the run.
    """
    began = config.frozen.versions if config.frozen else {}
    now = installed_versions(config)
    changed = [
        f"{name} {began[name]} (now {now.get(name, 'none')})"
        for name in began
        if now.get(name, "none") != began[name]
    ]
    if not changed:
        return ""
    return (
        f"The run began with {', '.join(changed)}. Scores may differ in their last digits from "
        "those of an unbroken search, and so may its course; for exactly the same search, install "
        "these versions again."
    )


def package_version(package: str) -> str:
    """Return the version of a package, or `none` if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
