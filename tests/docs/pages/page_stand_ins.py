"""What stands in for things that the documentation names and a test does not have.

Models of the reader or of the Hub are tiny, tasks and data sets are small, and searches have few
candidates and documents.
"""

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import pytest
import tiny
import yaml
from gguf_files import write_gguf
from lm_tasks import only
from pages import ROOT
from search_run import SMALL

import evomerge
from evomerge import zoo
from evomerge.api import study
from evomerge.config.schema import SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import hub_id, open_parent
from evomerge.problem import draft, parents, runs
from evomerge.problem.problem import record_of
from evomerge.problem.resolve import resolve
from evomerge.run.history import History
from evomerge.searching import run as search

FEW = {"search": 8, "validation": 4, "test": 8}
"""Split -> number of its documents in a small search."""

FEWER_IN_STUDIES = 24
"""The candidates that a study of a page has less than the page says, each time it goes on, too."""

SEARCH = {
    **SMALL,
    "evaluation": {
        "include": ["zoo:tasks", "./tasks"],
        **{split: {"documents": number} for split, number in FEW.items()},
    },
}
"""A search file, with the tasks of the reader."""

MERGE = {
    "models": [{"model": "zoo:language"}, {"model": "zoo:maths"}],
    "merge_method": "linear",
    "parameters": {"weight": 0.5},
    "dtype": "bfloat16",
}
"""A mergekit file."""

FOLDERS = ("./my-finetune", "./model")
"""Folders with models that the reader has."""

TASKS = {"my_task": "zoo_l2_maths", "my_questions": "zoo_l2_maths", "my_exam": "zoo_maths"}
"""Task of the reader, in `./tasks` -> task of the zoo that stands in for it."""

BUILT_IN = ("gsm8k",)
"""Folders of lm-eval with the tasks that the pages name."""

_SUMS = [
    {"question": f"What is {i} + 1?", "answer": f"{i} + 1 = {i + 1}\n#### {i + 1}"}
    for i in range(1000)
]
DATASETS = {"openai/gsm8k": {"train": _SUMS[:700], "test": _SUMS[700:]}}
"""Data set on the Hub -> split -> its documents here."""


def write_models(folder: Path) -> list[Path]:
    """Write models with random weights and as many layers as one with 7 B parameters has."""
    sizes = {"num_hidden_layers": 32, "max_position_embeddings": 4096}
    base = tiny.make(folder / "0", seed=0, dtype="bfloat16", **sizes)
    near = [
        tiny.make(folder / str(seed), seed=seed, dtype="bfloat16", near=base, **sizes)
        for seed in (1, 2)
    ]
    return [base, *near]


def stand_in_for_models(patch: pytest.MonkeyPatch, models: Sequence[Path]) -> None:
    """Open models that are not on this machine as these, in turn."""
    places: dict[str, Path] = {}

    def opened(reference: str, relative_to: Path) -> Checkpoint:
        model = reference.partition("+")[0]
        if model not in FOLDERS and (hub_id(model) is None or (relative_to / model).is_dir()):
            return open_parent(reference, relative_to)
        place = places.setdefault(reference, models[len(places) % len(models)])
        return Checkpoint.open(place, reference)

    for module in (parents, draft):
        patch.setattr(module, "open_parent", opened)


def stand_in_for_datasets(
    patch: pytest.MonkeyPatch, known: Mapping[str, Any] = DATASETS, tasks: Sequence[str] = BUILT_IN
) -> None:
    """Load data sets on the Hub from here; of lm-eval's own tasks, only those in some folders."""
    real = datasets.load_dataset

    def loaded(path: str, *arguments: Any, **options: Any) -> Any:
        if path not in known:
            return real(path, *arguments, **options)
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(rows) for split, rows in known[path].items()}
        )

    patch.setattr(datasets, "load_dataset", loaded)
    patch.setattr(lm_eval.tasks, "TaskManager", only(*tasks))


def _search(path: Path) -> None:
    path.write_text(yaml.safe_dump(SEARCH))


def _run(path: Path) -> None:
    with small_searches():
        evomerge.search(SEARCH, path, progress=False)


THINGS: dict[str, Callable[[Path], object]] = {
    "my-model": lambda path: path.symlink_to(zoo.path("language")),
    "search.yaml": _search,
    "recipe.yaml": lambda path: path.write_text(yaml.safe_dump(MERGE)),
    "runs/mine": _run,
    "mine.gguf": write_gguf,
    "other.gguf": partial(write_gguf, seed=1),
    "coarse.gguf": partial(write_gguf, kind="Q4_0"),
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
    """Write the tasks of the reader, and beside their folder a file of questions."""
    folder.mkdir()
    rows = (
        {"question": f"tom has {n} apples . howmany now ?", "answer": f"{n}"} for n in range(60)
    )
    (folder.parent / "my_qa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = ROOT / "evomerge" / "zoo" / "tasks"
    shutil.copy(source / "documents.py", folder)
    for name, like in TASKS.items():
        (folder / f"{name}.yaml").write_text(
            (source / f"{like}.yaml").read_text().replace(like, name)
        )
        shutil.copy(source / f"{like}.jsonl", folder / f"{name}.jsonl")


SEARCHES: dict[str, Path] = {}
"""Digest of a record -> a copy of the run that its search has made; others go on from it."""


def _own_code(config: SearchConfig) -> bool:
    return any(":" in (item.task or "") for item in config.objectives)


@contextmanager
def small_searches() -> Iterator[None]:
    """Have searches and studies that begin or go on score few candidates on few documents."""

    def check(config: SearchConfig, *arguments: Any, **options: Any) -> Any:
        return resolve(_small(config), *arguments, **options)

    def run_search(problem: Any, run: Any, bounds: Mapping[str, float], *more: Any) -> Any:
        if bounds:
            few = len(History(run.events()).candidates) + 2
            bounds = {**bounds, "candidates": min(few, bounds.get("candidates", few))}
            return real(problem, run, bounds, *more)
        record = {**record_of(problem).to_json(), "folder": None}
        key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
        is_new = not History(run.events()).candidates and not _own_code(problem.config)
        if is_new and key in SEARCHES:
            kept = shutil.ignore_patterns("manifest.json", "search.yaml", "lock")
            shutil.copytree(SEARCHES[key], run.path, ignore=kept, dirs_exist_ok=True)
        found = real(problem, run, bounds, *more)
        if is_new and key not in SEARCHES:
            SEARCHES[key] = Path(tempfile.mkdtemp()) / "run"
            shutil.copytree(run.path, SEARCHES[key])
        return found

    def start_study(config: Any, folder: Path, candidates: int | None) -> Any:
        if config is not None:
            budget = {"candidates": config["budget"]["candidates"] - FEWER_IN_STUDIES}
            config = {**config, "budget": budget}
        fewer = None if candidates is None else candidates - FEWER_IN_STUDIES
        return real_study(config, folder, fewer)

    real, real_study = search.run_search, study.start_study
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "resolve", check)
        patch.setattr(search, "run_search", run_search)
        patch.setattr(study, "start_study", start_study)
        yield


def _small(config: SearchConfig) -> SearchConfig:
    """Return a search of the same things with a small budget."""
    data = config.model_dump(mode="json")
    data["budget"]["candidates"] = len(config.parents) + 3
    for split, most in FEW.items():
        section = data["evaluation"][split]
        given = section["documents"]
        section["documents"] = min(most, given) if isinstance(given, int) else most
    data["evaluation"]["validation"]["finalists"] = 2
    if {item["task"] for item in data["objectives"]} & {*BUILT_IN}:  # 256 tokens of 32 layers
        data["evaluation"]["generation"] = {"max_gen_toks": 2}
    return SearchConfig.model_validate(data)
