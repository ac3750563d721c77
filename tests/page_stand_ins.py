"""What stands in for things that the documentation names and a test does not have.

Models of the reader or of the Hub are models of the zoo under their names, tasks and data sets are
small, and searches have few candidates and documents.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
import yaml
from pages import ROOT
from search_run import SMALL

import evomerge
from evomerge import zoo
from evomerge.config.schema import SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import open_parent
from evomerge.run.history import History
from evomerge.setup import runs, search, stages
from evomerge.setup.check import check_search

SEARCH = {**SMALL, "evaluation": SMALL["evaluation"] | {"include": ["zoo:tasks", "./tasks"]}}
"""A search file, with the tasks of the reader."""

MERGE = {
    "models": [{"model": "zoo:language"}, {"model": "zoo:maths"}],
    "merge_method": "linear",
    "dtype": "bfloat16",
}
"""A mergekit file."""

MODELS = ("base", "language", "maths", "facts")

TASKS = {"my_task": "zoo_l2_maths", "my_questions": "zoo_l2_maths", "my_exam": "zoo_maths"}
"""Task of the reader, in `./tasks` -> task of the zoo that stands in for it."""

BUILT_IN = ("gsm8k/gsm8k.yaml",)
"""Tasks of lm-eval that are in `./tasks`, too: to look for one among all of them takes seconds."""

SUMS = [
    {"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"}
    for i in range(1000)
]

DATASETS = {
    "openai/gsm8k": {"train": SUMS[:700], "test": SUMS[700:]},
}
"""Data set on the Hub -> split -> its documents here."""


def stand_in_for_models(patch: pytest.MonkeyPatch) -> None:
    """Open models that are not on this machine as models of the zoo."""
    names: dict[str, str] = {}

    def opened(reference: str, relative_to: Path, *, allow_pickle: bool = False) -> Checkpoint:
        model = reference.partition("+")[0]
        if model.startswith("zoo:") or (relative_to / model).is_dir():
            return open_parent(reference, relative_to, allow_pickle=allow_pickle)
        name = names.setdefault(reference, MODELS[len(names) % len(MODELS)])
        return replace(Checkpoint.open(zoo.path(name), reference), reference=reference)

    patch.setattr(runs, "open_parent", opened)


def stand_in_for_datasets(patch: pytest.MonkeyPatch) -> None:
    """Load data sets of the Hub from the documents in `DATASETS`."""
    real = datasets.load_dataset

    def loaded(path: str, *arguments: Any, **options: Any) -> Any:
        if path not in DATASETS:
            return real(path, *arguments, **options)
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows) for split, rows in DATASETS[path].items()}
        )

    patch.setattr(datasets, "load_dataset", loaded)


def _search(path: Path) -> None:
    path.write_text(yaml.safe_dump(SEARCH))


def _run(path: Path) -> None:
    with small_searches():
        evomerge.search(SEARCH, path, progress=False)


THINGS: dict[str, Callable[[Path], None]] = {
    "my-model": lambda path: path.symlink_to(zoo.path("language")),
    "search.yaml": _search,
    "merge.yaml": lambda path: path.write_text(yaml.safe_dump(MERGE)),
    "recipe.yaml": lambda path: path.write_text(yaml.safe_dump(MERGE)),
    "runs/mine": _run,
}
"""What a page may use without making it -> what makes it."""


def make_what_is_used(text: str) -> None:
    """Make those of `THINGS` that a block uses and that no earlier one has made."""
    for name, make in THINGS.items():
        made = re.search(rf"(--out |--run |init |> |export\(.|run=.){name}\b", text)
        if re.search(rf"(?<![\w/-]){name}(?![\w-])", text) and not made:
            path = Path(name)
            if not path.exists():
                path.parent.mkdir(exist_ok=True)
                make(path)


def write_tasks(folder: Path) -> None:
    """Write the tasks of the reader."""
    folder.mkdir()
    for name in BUILT_IN:
        shutil.copy(Path(lm_eval.__file__).parent / "tasks" / name, folder)
    source = ROOT / "evomerge" / "zoo" / "tasks"
    shutil.copy(source / "documents.py", folder)
    for name, like in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            (source / f"{like}.yaml").read_text().replace(like, name)
        )
        shutil.copy(source / f"{like}.jsonl", folder / f"{name}.jsonl")


@contextmanager
def small_searches() -> Iterator[None]:
    """Have searches that begin or go on score few candidates on few documents."""

    def check(config: SearchConfig, *arguments: Any, **options: Any) -> Any:
        return check_search(_small(config), *arguments, **options)

    def run_search(problem: Any, run: Any, bounds: Mapping[str, float], *more: Any) -> Any:
        if bounds:
            few = len(History(run.events()).candidates) + 2
            bounds = {**bounds, "candidates": min(few, bounds.get("candidates", few))}
        return real(problem, run, bounds, *more)

    real = search.run_search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "check_search", check)
        patch.setattr(stages, "check_search", check)
        patch.setattr(search, "run_search", run_search)
        yield


def _small(config: SearchConfig) -> SearchConfig:
    """Return a search of the same things with a small budget."""
    data = config.model_dump(mode="json", exclude={"frozen"})
    data["budget"]["candidates"] = len(config.parents) + 3
    for split, most in (("search", 24), ("validation", 16), ("test", 32)):
        section = data["evaluation"][split]
        given = section["documents"]
        section["documents"] = most if given == "all" else min(most, given)
    return SearchConfig.model_validate(data)
