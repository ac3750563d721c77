"""The section of a model card on how to repeat the merge: commands, versions, parents, search."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import yaml

from evomerge.config.schema import BudgetConfig, Frozen, SearchConfig
from evomerge.export.markdown import block, code, plain
from evomerge.export.parents import Parent
from evomerge.models.references import split_kind
from evomerge.run.history import History

_PATH = re.compile(r"(?<![\w.~/-])(~|\.{1,2})?(/[^\s/:+,;='\"()\[\]{}]+)+/?")
"""A path that begins in the root, the home folder or this one; no address of the web."""


def how_to_repeat(
    commands: Sequence[str],
    versions: Mapping[str, str],
    parents: Iterable[Parent],
) -> list[str]:
    """Return the lines of the section.

    Args:
        commands: the commands that make the model again.
        versions: package -> version that the model was made with.
        parents: the parents of the model.
    """
    used = ", ".join(f"{package} {version}" for package, version in versions.items())
    return [
        "## How to repeat",
        "",
        *block(commands),
        "",
        *([f"Made with {plain(used)}.", ""] if used else []),
        "Fingerprints of the parents (SHA-256 of config, tokenizer and samples of the weights; "
        "`frozen.parents` in the search file of a run has them too):",
        "",
        *(f"- {code(parent.name)}: {code(parent.fingerprint)}" for parent in parents),
        "",
    ]


def options_of(config: SearchConfig) -> str:
    """Return the options with which the search of a run is allowed to do what it has done."""
    from evomerge.evaluation.tasks.functions import is_function

    frozen = config.frozen or Frozen()
    given = {
        "--allow-pickle": frozen.allow_pickle,
        "--allow-code": frozen.allow_code,
        "--trust-code": frozen.code or any(map(is_function, config.tasks)),
    }
    return "".join(f" {option}" for option, is_given in given.items() if is_given)


def budget_of(config: SearchConfig, history: History) -> BudgetConfig:
    """Return the bounds of a run's search, with those that `resume` has set since it began."""
    return BudgetConfig(**{**config.budget.model_dump(), **history.budget})


def search_file(
    config: SearchConfig, names: Mapping[str, str], file: str = "search.yaml"
) -> list[str]:
    """Return the lines with the search file, without defaults and without paths of this machine.

    The section `executor` is left out: it says where the search ran, and does not change its
    result.

    Args:
        config: the search file of a run.
        names: reference of a parent -> its published name.
        file: name of the file in the commands; "" if there is no command with it.
    """
    title = f"Search file (`{file}`)" if file else "Search file of this stage"
    plain = config.model_dump(mode="json", exclude={"frozen", "executor"}, exclude_defaults=True)
    text = yaml.safe_dump(_published(plain, names), sort_keys=False, allow_unicode=True, width=98)
    return [
        f"{title}, without what is at its default:",
        "",
        *block(text.strip().splitlines(), "yaml"),
        "",
    ]


def _published(value: Any, names: Mapping[str, str]) -> Any:
    """Return plain values in which parents have their published names, and paths are cut."""
    if isinstance(value, dict):
        return {_published(key, names): _published(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_published(item, names) for item in value]
    if isinstance(value, str):
        return names.get(value) or _without_folders(value)
    return value


def _without_folders(text: str) -> str:
    """Return a text in which paths are cut to their last part, wherever they stand in it."""
    kind, rest = split_kind(text)
    if rest.startswith(("/", "~", "./", "../")):  # one path, perhaps with spaces
        return kind + "+".join(PurePath(part).name for part in rest.split("+"))
    return _PATH.sub(lambda found: PurePath(found[0]).name, text)
