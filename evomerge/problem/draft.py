"""Drafting a search file for parents and tasks: `evomerge init FILE --parents ... --task ...`.

Parents and tasks are opened, so that the file has what suits them: space, documents, metrics.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.config.evaluation import SearchSplit
from evomerge.config.optimizer import with_fewer_candidates
from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import ConfigError, listed, printable
from evomerge.evaluation.objectives import load, measured_by, needed_columns
from evomerge.evaluation.questions import ENOUGH, READERS, Questions, read_questions
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.mergekit.ranges import SearchParts
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import kind_of
from evomerge.models.references import is_file, open_parent, place, split_adapter
from evomerge.parsing.texts import json_value, read_text
from evomerge.problem.commented import COMMENTS, COMMENTS_OF_OTHERS, HEAD, commented
from evomerge.problem.documents import FEW, MANY, fresh_documents
from evomerge.problem.other_tools import fill_in_evaluation, metric_of, parts_of, space_of
from evomerge.problem.parents import absolute_config, absolute_parent, start_of
from evomerge.problem.preflight import document_warnings
from evomerge.problem.problem import Problem
from evomerge.problem.resolve import read_search
from evomerge.problem.runs import prepare, refuse_study
from evomerge.run.atomic import write_output
from evomerge.scores import NLL, TOKENS
from evomerge.trust.code import NOTHING, Permissions
from evomerge.words import size_text

_SCORED = 200  # documents that finalists are scored on, if there are as many
_TESTED = 2000  # documents at most of a test, which give an interval of ±2 points
_TASKS = "tasks"  # the folder for tasks of questions, beside the search file
_TEXTS = 64  # that the base writes, by which a search says what was lost
_APART = 6  # parents at most that have knobs of their own in each of three groups of layers


class Draft(NamedTuple):
    """The text of a search file, and sentences about what it decides without being asked."""

    text: str
    notes: Sequence[str]


def draft(
    file: Path,
    parents: Sequence[str],
    base: str | None,
    tasks: Sequence[str],
    include: Sequence[str],
    allowed: Permissions = NOTHING,
    source: Path | None = None,
) -> Draft:
    """Draft the commented text of a search file that runs as it is; `file` is where it will be.

    Relative paths start from where the command is given; `tasks` are names of tasks, some in the
    folders `include`, of objective functions, or files of rows. The task of a file of questions is
    written into `tasks/` beside the search file. `source`: a file of mergekit or mergekit-evolve,
    which has the parents, and the tasks if it is the latter and `tasks` is empty.

    InputError: a parent or a task is missing, or they do not go together.
    """
    tasks = [*dict.fromkeys(tasks)]
    taken = None if source is None else parts_of(source, parents, base, tasks)
    if taken is not None:
        parents, base = taken.parents, taken.base
    elif len(parents) < 2 or not tasks:
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
    starts = {  # the folders that relative paths start from
        name: start_of(name, source.absolute()) if source else here
        for name in [*parents, *([base] if base else [])]
    }
    names = {
        name: name if folder == start else absolute_parent(name, start)
        for name, start in starts.items()
    }
    checkpoints = {names[name]: open_parent(name, start) for name, start in starts.items()}
    host = checkpoints[names[base or parents[0]]]
    rows = {
        item.tensors[item.embedding].shape[0] for item in checkpoints.values() if item.embedding
    }
    questions = dict[str, Questions]()
    data: dict[str, Any] = {
        "seed": 0,
        "parents": [names[name] for name in parents],
        **({"base": names[base]} if base else {}),
        "dtype": stored_dtype(replace(host, adapter=None), "bfloat16"),
        **({"tokenizer": "union"} if len(rows) > 1 else {}),
        **({key: names.get(name, name) for key, name in taken.keys.items()} if taken else {}),
        "space": _space([checkpoints[names[name]] for name in parents], base is not None),
        "optimizer": {"name": "auto"},
        "objectives": [_objective(task, here, folder, host, questions) for task in tasks]
        or [*(taken.tasks if taken else ())],
    }
    if taken is not None and taken.space:
        data["space"] = space_of(taken, len(host.decoder_stack))
    folders = [item if item == "zoo:tasks" else _seen_from(folder, here, item) for item in include]
    named = [str(objective.get("task", "")) for objective in data["objectives"]]
    if any(task.startswith("zoo_") for task in named) and "zoo:tasks" not in folders:
        folders.append("zoo:tasks")
    if questions and not any(place(path, folder) == folder / _TASKS for path in folders):
        folders.append(_TASKS)
    with _tasks_written(folder / _TASKS, questions.values()):
        return _drafted(file, data, folders, checkpoints, questions, allowed, taken)


@contextmanager
def _tasks_written(folder: Path, questions: Iterable[Questions]) -> Iterator[None]:
    """Write the tasks of files of questions into a folder; remove them if the context fails."""
    texts = {folder / f"{one.task}.yaml": one.yaml for one in questions}
    is_new = bool(texts) and not folder.exists()
    for file, text in texts.items():
        if file.exists() and read_text(file, ConfigError) != text:
            raise ConfigError(
                f"{file} is there already, and is not what `init` writes for the file of "
                f"questions; name the task instead (--task {file.stem} --include {folder}), or "
                "rename one of the two files."
            )
    written = [file for file in texts if not file.exists()]
    try:
        if is_new:
            folder.mkdir()
        for file in written:
            write_output(file, texts[file], "the task")
        yield
    except BaseException:
        for file in written:
            file.unlink(missing_ok=True)
        if is_new:
            with suppress(OSError):
                folder.rmdir()
        raise


def _drafted(
    file: Path,
    data: dict[str, Any],
    folders: Sequence[str],
    checkpoints: Mapping[str, Checkpoint],
    questions: Mapping[str, Questions],
    allowed: Permissions,
    taken: SearchParts | None,
) -> Draft:
    """Return the draft with metrics, documents and budget; `data` has the keys before them.

    `questions` are the tasks of files, by name; `folders` are those of tasks; `taken` is what
    another tool's file gives.
    """
    folder = file.absolute().parent
    host = checkpoints[data.get("base", data["parents"][0])]
    evaluation: dict[str, Any] = {"include": [*folders]} if folders else {}
    config = absolute_config(read_search({**data, "evaluation": evaluation}, file), folder)
    refuse_study(config)
    evaluator = load(config, allowed)
    info = evaluator.info
    others = list[str]()
    for objective in data["objectives"]:
        rest = list[str]()
        if (task := objective.get("task")) is not None:
            metrics = _metrics(info, task)
            best = questions[task].metric if task in questions else metrics[0]
            if taken is not None:
                best = metric_of(objective, metrics, taken.notes) or best
            objective["metric"], rest = best, [name for name in metrics if name != best]
        others.append(printable(f"or {', '.join(rest)}") if rest else "")
    if host.chat_template is not None and any(it.has_answers for it in evaluator.every):
        generates = any(task.generates for task in info.tasks.values())
        evaluation["chat_template"] = generates or bool(questions)
    if taken is not None:
        fill_in_evaluation(evaluation, taken, has_template=host.chat_template is not None)
    data["evaluation"] = evaluation | _splits(config, info, allowed, taken.limit if taken else None)
    if data.get("base") and any(it.has_answers for it in evaluator.every):
        data["evaluation"]["also"] = [{"texts": _TEXTS}]
    data["budget"] = {"candidates": MANY}
    problem = prepare(parse(data, str(file)), folder, allowed)
    if fresh_documents(problem) is None:
        data["budget"] = {"candidates": FEW}
        problem = prepare(parse(data, str(file)), folder, allowed)
    comments: dict[str, Any] = {
        **COMMENTS,
        "parents": [_parent_in_words(checkpoints[name]) for name in data["parents"]],
        "objectives": others,
    }
    if taken is not None:
        comments |= COMMENTS_OF_OTHERS
    if (other := with_fewer_candidates(problem)) is not None:
        name = other.config.optimizer.name
        comments["optimizer"] = f"by genes and budget; {name} needs a tenth of the candidates"
    quoted = {"file": shlex.quote(str(file)), "run": shlex.quote(f"runs/{file.stem}")}
    return Draft(
        HEAD.format(**quoted) + commented(data, comments),
        [
            *(taken.notes if taken else ()),
            *(() if taken and taken.space else _method_notes(problem)),
            *_notes(problem, folder, questions),
            *document_warnings(problem),
        ],
    )


def _method_notes(problem: Problem) -> Iterator[str]:
    """Yield why the method is what it is, which nobody asked for."""
    if problem.config.base is None and not problem.config.space.is_path:
        yield (
            f"no base is given, so the method is {problem.config.space.methods[0]}; with --base "
            "MODEL it would be task_arithmetic, which merges what each parent has changed."
        )


def _notes(problem: Problem, folder: Path, questions: Mapping[str, Questions]) -> Iterator[str]:
    """Yield what was decided about files of questions without being asked."""
    for task, asked in questions.items():
        if asked.rows < ENOUGH:
            counts = (f"{len(own[task])} for {split}" for split, own in problem.splits.items())
            yield f"{task} has {asked.rows} rows, so the splits are small: {listed(counts)}."
        yield f"{task}: {asked.about}; {folder / _TASKS / task}.yaml has it all, to change."


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


def _objective(
    task: str, here: Path, folder: Path, host: Checkpoint, questions: dict[str, Questions]
) -> dict[str, Any]:
    """Return what a task measures: the task itself, or the rows of a file.

    The task of a file of questions is added to `questions`.
    """
    file = place(task, here)
    suffix = file.suffix.lower()
    if not is_file(file):
        if suffix in READERS:
            raise ConfigError(f"--task {task} is not there; give a file of rows, or name a task.")
        return {"task": task}
    if suffix in (".yaml", ".yml"):
        raise ConfigError(
            f"--task {task} is the file of a task; give the name that is in it (`task`), and its "
            "folder with --include."
        )
    if suffix not in READERS:
        raise ConfigError(
            f"--task {task} is a file that ends in {suffix or 'nothing'!r}; give rows in a file "
            f"that ends in {', '.join(READERS)}, or name a task."
        )
    if suffix == ".jsonl":
        lines = [*filter(str.strip, read_text(file, ConfigError).splitlines())]
        if not lines:
            raise ConfigError(f"--task {task} has no rows; give a file with rows, or name a task.")
        value = json_value(lines[0], f"{task}, line 1", ConfigError)
        row = value if isinstance(value, dict) else {}
        measure = measured_by(row, host)
        if measure is not None:
            return {**measure, "file": _seen_from(folder, here, task)}
    is_chat = host.chat_template is not None
    kinds = needed_columns()
    asked = read_questions(file, task, folder / _TASKS, is_chat=is_chat, others=kinds)
    if asked.task in questions:
        raise ConfigError(
            f"--task {task} and another file would both be the task {asked.task!r}; rename one."
        )
    questions[asked.task] = asked
    return {"task": asked.task}


def _metrics(info: TasksInfo, task: str) -> list[str]:
    """Return the metrics of a task; those of which more is better come first."""
    metrics = (info.groups.get(task) or info.tasks[task]).metrics
    names = [name for name in metrics if name not in (NLL, TOKENS)] or [NLL]
    return sorted(names, key=lambda name: not metrics[name].higher_is_better)


def _splits(
    config: SearchConfig, info: TasksInfo, allowed: Permissions, limit: int | None
) -> dict[str, dict[str, Any]]:
    """Return where the documents of each split come from, and how many these are.

    `limit` is the number of search documents that is asked for; None: a search takes few.

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
        share = max(1, counts[name] // [*source.values()].count(name))
        count: int | str = min(_SCORED, share)
        if split == "test":
            count = "all" if left[name] <= _TESTED else _TESTED
        else:
            left[name] -= int(count)
        if split == "search":
            count = "auto" if limit is None else min(limit, share)
        sections[split] = {"documents": count, **({"task_split": name} if name else {})}
    return sections
