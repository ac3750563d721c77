"""Drafting a search file for parents and tasks: `evomerge init FILE --parents ... --task ...`.

Parents and tasks are opened, so that the file has what suits them: space, documents, metrics.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

from evomerge.config.evaluation import SearchSplit
from evomerge.config.optimizer import with_fewer_candidates
from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import ConfigError, printable
from evomerge.evaluation.objectives import load, measured_by
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import kind_of
from evomerge.models.references import is_file, open_parent, place, split_adapter
from evomerge.parsing.texts import json_value, read_text, yaml_text
from evomerge.problem.documents import FEW, MANY, fresh_documents
from evomerge.problem.parents import absolute_config, absolute_parent
from evomerge.problem.resolve import read_search
from evomerge.problem.runs import prepare, refuse_study
from evomerge.scores import NLL, TOKENS
from evomerge.trust.code import NOTHING, Permissions
from evomerge.words import size_text

_SCORED = 200  # documents that finalists are scored on, if there are as many
_TESTED = 2000  # documents at most of a test, which give an interval of ±2 points
_APART = 6  # parents at most that have knobs of their own in each of three groups of layers


def draft(
    file: Path,
    parents: Sequence[str],
    base: str | None,
    tasks: Sequence[str],
    include: Sequence[str],
    allowed: Permissions = NOTHING,
) -> str:
    """Return the commented text of a search file that runs as it is; `file` is where it will be.

    Relative paths start from where the command is given; `tasks` are names of tasks, some in the
    folders `include`, of objective functions, or files of rows.
    InputError: a parent or a task is missing, or they do not go together.
    """
    tasks = [*dict.fromkeys(tasks)]
    if len(parents) < 2 or not tasks:
        raise ConfigError(
            f"`init` writes a search of your own models from two parents or more and a task, but "
            f"has {len(parents)} and {len(tasks)}; give --parents A B and --task T, or neither of "
            "them for an example."
        )
    from evomerge.merging.writer import stored_dtype

    here, folder = Path.cwd(), file.absolute().parent
    models = {split_adapter(name, here)[0] for name in parents}
    if base is None and len(models) == 1 and models.isdisjoint(parents):
        (base,) = models  # all parents are adapters of it
    names = {
        name: name if folder == here else absolute_parent(name, here)
        for name in [*parents, *([base] if base else [])]
    }
    checkpoints = {names[name]: open_parent(name, here) for name in names}
    host = checkpoints[names[base or parents[0]]]
    rows = {
        item.tensors[item.embedding].shape[0] for item in checkpoints.values() if item.embedding
    }
    data: dict[str, Any] = {
        "seed": 0,
        "parents": [names[name] for name in parents],
        **({"base": names[base]} if base else {}),
        "dtype": stored_dtype(replace(host, adapter=None), "bfloat16"),
        **({"tokenizer": "union"} if len(rows) > 1 else {}),
        "space": _space([checkpoints[names[name]] for name in parents], base is not None),
        "optimizer": {"name": "auto"},
        "objectives": [_objective(task, here, folder, host) for task in tasks],
    }
    folders = [item if item == "zoo:tasks" else _seen_from(folder, here, item) for item in include]
    if any(task.startswith("zoo_") for task in tasks) and "zoo:tasks" not in folders:
        folders.append("zoo:tasks")
    evaluation: dict[str, Any] = {"include": folders} if folders else {}
    config = absolute_config(read_search({**data, "evaluation": evaluation}, file), folder)
    refuse_study(config)
    evaluator = load(config, allowed)
    info = evaluator.info
    others = list[str]()
    for item in data["objectives"]:
        rest = list[str]()
        if "task" in item:
            item["metric"], *rest = _metrics(info, item["task"])
        others.append(printable(f"or {', '.join(rest)}") if rest else "")
    if host.chat_template is not None and any(item.has_answers for item in evaluator.every):
        evaluation["chat_template"] = any(task.generates for task in info.tasks.values())
    data["evaluation"] = evaluation | _splits(config, info, allowed)
    data["budget"] = {"candidates": MANY}
    problem = prepare(parse(data, str(file)), folder, allowed)
    if fresh_documents(problem) is None:
        data["budget"] = {"candidates": FEW}
        problem = prepare(parse(data, str(file)), folder, allowed)
    comments: dict[str, Any] = {
        **_COMMENTS,
        "parents": [_parent_in_words(checkpoints[name]) for name in data["parents"]],
        "objectives": others,
    }
    if (other := with_fewer_candidates(problem)) is not None:
        name = other.config.optimizer.name
        comments["optimizer"] = f"by genes and budget; {name} needs a tenth of the candidates"
    quoted = {"file": shlex.quote(str(file)), "run": shlex.quote(f"runs/{file.stem}")}
    return _HEAD.format(**quoted) + _commented(data, comments)


def _parent_in_words(parent: Checkpoint) -> str:
    """Return what a parent is: its kind, layers, size, and what else it has."""
    words = [kind_of(parent), f"{len(parent.decoder_stack)} layers", size_text(parent.nbytes)]
    words += ["an adapter"] if parent.adapter is not None else []
    words += ["a chat template"] if parent.chat_template is not None else []
    return ", ".join(words)


def _seen_from(folder: Path, here: Path, path: str) -> str:
    """Return a path that is seen from `here` as it is seen from the folder of the search file."""
    return path if folder == here else str(place(path, here).resolve())


def _space(parents: Sequence[Checkpoint], has_base: bool) -> dict[str, Any]:
    if len({len(parent.decoder_stack) for parent in parents}) > 1:
        return {"kind": "dataflow", "variant": "structured", "repeats": 1}
    method, knobs = "task_arithmetic", {"weight": [0.0, 1.5]}
    if not has_base:
        method, knobs = "linear", {"weight": [0.0, 1.0]}
        if len(parents) == 2:  # of two weights whose sum is scaled to 1, one would be too many
            method, knobs = "slerp", {"t": [0.0, 1.0]}
    return {
        "method": method,
        "groups": min(3, len(parents[0].decoder_stack)) if len(parents) <= _APART else "one",
        "embeddings": all(parent.adapter is None for parent in parents),
        "knobs": knobs,
    }


def _objective(task: str, here: Path, folder: Path, host: Checkpoint) -> dict[str, Any]:
    """Return what a task measures: the task itself, or the rows of a file."""
    if not is_file(place(task, here)):
        if task.endswith(".jsonl"):
            raise ConfigError(f"--task {task} is not there; give a file of rows, or name a task.")
        return {"task": task}
    if task.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"--task {task} is the file of a task; give the name that is in it (`task`), and its "
            "folder with --include."
        )
    lines = [*filter(str.strip, read_text(place(task, here), ConfigError).splitlines())]
    if not lines:
        raise ConfigError(f"--task {task} has no rows; give a file with rows, or name a task.")
    row = json_value(lines[0], f"{task}, line 1", ConfigError)
    measure = measured_by(row if isinstance(row, dict) else {}, host, f"--task {task}")
    return {**measure, "file": _seen_from(folder, here, task)}


def _metrics(info: TasksInfo, task: str) -> list[str]:
    """Return the metrics of a task; those of which more is better come first."""
    metrics = (info.groups.get(task) or info.tasks[task]).metrics
    names = [name for name in metrics if name not in (NLL, TOKENS)] or [NLL]
    return sorted(names, key=lambda name: not metrics[name].higher_is_better)


def _splits(
    config: SearchConfig, info: TasksInfo, allowed: Permissions
) -> dict[str, dict[str, Any]]:
    """Return where the documents of each split come from, and how many these are.

    The test has those that a task is evaluated on. The others are training and validation documents
    if all tasks have training documents, else all three splits share what there is.
    """
    names = [leaf for name in config.tasks for leaf in info.leaves(name)]
    leaves = [info.tasks[name] for name in names]
    others = set.intersection(*({*leaf.task_splits} - {leaf.task_split} for leaf in leaves))
    source: dict[str, str] = dict.fromkeys(("search", "validation", "test"), "")
    if "training" in others:
        source["search"] = "training"
        source["validation"] = "validation" if "validation" in others else "training"
    counts = {"": min(leaf.documents for leaf in leaves)}
    for split in {*source.values()} - {""}:
        asked = SearchSplit.model_validate({"task_split": split})
        other = load(config.with_values("evaluation", search=asked), allowed)
        there = other.tasks_of("search").info.tasks
        counts[split] = min(there[name].documents for name in names)
    sections, left = dict[str, dict[str, Any]](), dict(counts)
    for split, name in source.items():
        count: int | str = min(_SCORED, max(1, counts[name] // [*source.values()].count(name)))
        if split == "test":
            count = "all" if left[name] <= _TESTED else _TESTED
        else:
            left[name] -= int(count)
        count = "auto" if split == "search" else count
        sections[split] = {"documents": count, **({"task_split": name} if name else {})}
    return sections


_HEAD = """\
# Checked with the models and tasks that it names.
#   evomerge validate --time {file}
#   evomerge search {file} --run {run}
"""

_COMMENTS = {
    "seed": "of the optimizer, random methods and the choice of documents",
    "base": "task vectors are parent - base; gives config and tokenizer",
    "dtype": "of the merges, as of the host: bfloat16, float16 or float32",
    "tokenizer": "union: the tokens of all parents, since their vocabularies differ",
    "space": "what is searched",
    "kind": "dataflow: a path through the layers, since parents differ in their number",
    "variant": "each layer is in or out (docs/dataflow.md has other ones)",
    "repeats": "how often the layers of all parents are laid out",
    "method": "`evomerge list methods`; a list makes the method a gene",
    "groups": "of layers, each with its own knobs: a number, each, or one",
    "embeddings": "knobs of their own for embeddings and head",
    "knobs": "a range is searched, a number is fixed; others have defaults",
    "optimizer": "by genes and budget; `evomerge list optimizers` has the others",
    "evaluation": "what is scored, on which documents",
    "include": "folders with task YAML",
    "chat_template": "of the host, for prompts; `validate --time` tries both",
    "search": "candidates are scored on these; auto: few, which costs less",
    "validation": "the winner is chosen on these",
    "test": "the winner's result is measured on these",
    "budget": "parents and averages among them; or hours, target, patience",
}


def _commented(data: Mapping[str, Any], comments: Mapping[str, Any]) -> str:
    """Return a search file as YAML, with comments by key, and for each item of a list."""
    rows = list[tuple[str, str]]()
    for key, value in data.items():
        if isinstance(value, list):
            items = [f"  - {_flow(item)}" for item in value]
            rows += [(f"{key}:", ""), *zip(items, comments[key], strict=True)]
        elif key in ("space", "evaluation"):
            rows.append((f"{key}:", comments[key]))
            rows += [(f"  {name}: {_flow(item)}", comments[name]) for name, item in value.items()]
        else:
            rows.append((f"{key}: {_flow(value)}", comments[key]))
    return "".join(f"{text:<34} # {said}\n" if said else f"{text}\n" for text, said in rows)


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    return yaml_text([value], flow=True, width=inf).strip()[1:-1]
