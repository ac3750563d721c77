"""Parents of the zoo whose settings differ, and a small search over them."""

import shutil
from pathlib import Path
from typing import Any

from search_run import SMALL
from tiny import edit_config

from evomerge import zoo
from evomerge.config.schema import parse
from evomerge.problem.problem import Problem
from evomerge.problem.runs import prepare

PLAIN = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
OTHER = "{% for m in messages %}eats {{ m['content'] }} eats{% endfor %}"
"""A chat template that changes no prompt, and one with which a model of the zoo answers wrongly."""


def copy_of(name: str, folder: Path, template: str | None = None, **config: Any) -> Path:
    """Copy a model of the zoo, with another chat template and other values of its config."""
    shutil.copytree(zoo.path(name), folder)
    edit_config(folder, **config)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def edit_generation(folder: Path, **values: Any) -> None:
    """Set keys of a model's generation config."""
    edit_config(folder, "generation_config.json", **values)


def edit_tokenizer(folder: Path, **values: Any) -> None:
    """Set keys of a model's tokenizer config."""
    edit_config(folder, "tokenizer_config.json", **values)


def search_over(parents: list[Path], base: Path, *, chat: bool = False, **more: Any) -> dict:
    """Return a search file for a few candidates on arithmetic."""
    evaluation = {**SMALL["evaluation"], "chat_template": chat}
    models: dict[str, Any] = {"parents": list(map(str, parents)), "base": str(base)}
    if base in parents:  # it would have no task vector
        models |= {"base": None, "space": {**SMALL["space"], "method": "linear", "host": str(base)}}
    objectives = [{"task": "zoo_maths", "metric": "exact_match"}]
    about = {"objectives": objectives, "evaluation": evaluation, "budget": {"candidates": 4}}
    return {**SMALL, **models, **about, **more}


def problem_of(data: dict) -> Problem:
    """Return the problem of a search file."""
    return prepare(parse(data, "search.yaml"), Path.cwd())
