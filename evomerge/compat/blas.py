"""The BLAS and LAPACK of numpy, scipy and torch, and the variables that choose instructions.

A release of these packages comes with a library of its own on one platform, and takes the system's
on another; what is loaded says more than what the package was built with.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLES = (
    "ATEN_CPU_CAPABILITY", "BLIS_ARCH_TYPE", "DNNL_MAX_CPU_ISA", "GLIBC_TUNABLES", "MKL_CBWR",
    "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS", "NPY_DISABLE_CPU_FEATURES",
    "NPY_ENABLE_CPU_FEATURES", "NUMBA_CPU_FEATURES", "NUMBA_CPU_NAME", "NUMBA_DISABLE_INTEL_SVML",
    "NUMBA_ENABLE_AVX", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE",
)  # fmt: skip
"""Environment variables by which libraries choose the instructions that they compute with."""


def instruction_variables() -> dict[str, str]:
    """Return the environment variables of `VARIABLES` that are set, with their values."""
    return {name: os.environ[name] for name in VARIABLES if os.environ.get(name)}


def linear_algebra() -> dict[str, str]:
    """Return the BLAS of numpy, scipy and torch, and the LAPACK where it is another library.

    Returns:
        Package -> library, version and core type, such as `openblas 0.3.31 Haswell`, as far as
        they can be read: MKL does not say its core type. `unknown` if nothing can be read. Numbers
        of threads are left out.
    """
    import numpy
    import scipy.linalg  # loads scipy's library
    import torch

    folders = {
        package.__name__: Path(str(package.__file__)).parent for package in (numpy, scipy, torch)
    }
    own, of_system = {name: list[str]() for name in folders}, list[str]()
    for path, text in _loaded().items():
        owner = next((name for name, folder in folders.items() if _is_part(path, folder)), None)
        (of_system if owner is None else own[owner]).append(text)
    built = {
        "numpy": _built_with(numpy.show_config(mode="dicts")),
        "scipy": _built_with(scipy.show_config(mode="dicts")),
        "torch": _torch_built_with(torch.__config__.show()),
    }
    if "mkl" in built["torch"] and not any("mkl" in text for text in of_system):
        own["torch"] = [built["torch"]]  # linked into torch, so the process has loaded no library
    return {name: ", ".join(own[name] or of_system) or built[name] for name in folders}


def _loaded() -> dict[Path, str]:
    """Return the BLAS libraries that this process has loaded, in the order of their paths."""
    from threadpoolctl import threadpool_info

    keys = ("internal_api", "version", "architecture")
    return {
        Path(library["filepath"]): " ".join(str(library[key]) for key in keys if library.get(key))
        for library in sorted(threadpool_info(), key=lambda library: str(library["filepath"]))
        if library["user_api"] == "blas"
    }


def _is_part(library: Path, package: Path) -> bool:
    """Return whether a library came with a package: in its folder, or in `NAME.libs` beside it."""
    return any(library.is_relative_to(folder) for folder in (package, package.with_suffix(".libs")))


def _built_with(config: Mapping[str, Any]) -> str:
    """Return what numpy or scipy was built with, by its `show_config(mode="dicts")`."""
    dependencies = config.get("Build Dependencies", {})
    texts = [
        f"{facts.get('name', 'unknown')} {facts.get('version', '')}".strip()
        for facts in (dependencies.get("blas", {}), dependencies.get("lapack", {}))
    ]
    return ", ".join(dict.fromkeys(texts))


def _torch_built_with(config: str) -> str:
    """Return what torch was built with, by `torch.__config__.show()`."""
    settings = dict(re.findall(r"\b(BLAS|LAPACK)_INFO=(\w+)", config))
    names = list(dict.fromkeys(settings.values())) or ["unknown"]
    version = re.search(r"Math Kernel Library Version ([\w.-]+)", config)
    return ", ".join(
        f"{name} {version[1]}" if name == "mkl" and version else name for name in names
    )
