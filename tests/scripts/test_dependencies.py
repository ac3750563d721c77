"""What the package imports is what it asks an installer for."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]


def imported() -> set[str]:
    """Top-level names of everything that the package imports, functions included."""
    names = set()
    for file in (ROOT / "evomerge").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    return names - set(sys.stdlib_module_names) - {"evomerge", "IPython"}  # which notebooks have


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", name)[0]).lower()


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = ("vllm", "ray", "trackio", "wandb", "encoders", "gguf")
    optional = [item for name in names for item in extras[name]]
    declared = {plain(item) for item in (*project["dependencies"], *optional)}
    providers = packages_distributions()
    missing = {
        name: providers.get(name, [name])
        for name in imported()
        if not declared & {plain(item) for item in providers.get(name, [name])}
    }
    assert not missing
