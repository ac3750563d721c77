"""From a search file to its objectives: of which kinds they are, whose code they run, the objects.

Nothing heavy is imported before `load`, since commands that only read a run ask for kinds, too.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge import zoo
from evomerge.config.objectives import ROWS
from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, did_you_mean
from evomerge.evaluation.lm_eval.loading import check_folders
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.heads import classified
from evomerge.models.references import is_file
from evomerge.parsing.values import shown
from evomerge.registry import Registry
from evomerge.scores import BASE_TEXTS, MODEL, MODEL_METRICS, NLL, SPLITS, TOKENS, Split
from evomerge.trust.code import NOTHING, Permissions, code_of_module
from evomerge.trust.task_files import code_of_tasks, read_task_file, task_files

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.lm_eval.objective import LmEval
    from evomerge.evaluation.tasks.info import TasksInfo
    from evomerge.evaluation.tasks.objective import Objective
    from evomerge.evaluation.tasks.rows import RowsObjective

KINDS: Registry[type[RowsObjective]] = Registry(
    "kind of objective", "evomerge.objectives", {name: kind.place for name, kind in ROWS.items()}
)
"""Kinds of rows of a file, by the name that `SearchConfig.rows` gives them."""


def kinds_of(config: SearchConfig) -> list[type[Objective]]:
    """Return the classes of objectives, constraints and `evaluation.also` of a search file.

    ConfigError: there is no such kind, or it cannot be imported.
    """
    from evomerge.evaluation.lm_eval.objective import LmEval
    from evomerge.evaluation.tasks.base_texts import BaseTexts
    from evomerge.evaluation.tasks.functions import ObjectiveFunction

    kinds: list[type[Objective]] = [_kind(name) for name, _ in config.rows.values()]
    kinds += [LmEval] if (tasks := stock_tasks(config)) else []
    kinds += [BaseTexts] if config.also_texts else []
    others = set(config.every_task) - {*tasks, *config.rows, BASE_TEXTS}
    kinds += [ObjectiveFunction] if others else []
    return list(dict.fromkeys(kinds))


def added_kinds() -> list[str]:
    """Return the names that `kind` can have: those of our own kinds, and what packages add."""
    added = [name for name, row in ROWS.items() if row.key == "kind"]
    for name in dict.fromkeys(KINDS.names()).keys() - KINDS.builtin.keys():
        with suppress(ConfigError):  # it is a function, or of a broken package
            _kind(name)
            added.append(name)
    return sorted(added)


def _kind(name: str) -> type[RowsObjective]:
    from evomerge.evaluation.tasks.rows import RowsObjective

    kind = KINDS.get(name)
    if not (isinstance(kind, type) and issubclass(kind, RowsObjective)):
        raise ConfigError(
            f"objectives: `kind` {name!r} is {kind!r:.80}, which is no subclass of RowsObjective "
            "(docs/how-to/own-kind.md); a function is named by `task`."
        )
    return kind


def measured_by(row: Mapping[str, Any], host: Checkpoint) -> dict[str, str] | None:
    """Return the key and value of an objective that has rows like this, for models like a host.

    None: no kind of objective has such rows.
    """
    kinds = {name: _kind(name) for name in KINDS.names()}
    fitting = [name for name, kind in kinds.items() if set(kind.needed) <= row.keys()]
    if not fitting:
        return None
    # Texts with labels are for a head, or for a probe on the embeddings of a model without one.
    has_head = bool(classified(host))
    name = next((name for name in fitting if kinds[name].needs_head is has_head), fitting[0])
    key, metric = ROWS[name].key if name in ROWS else "kind", kinds[name].metrics[0]
    value: dict[str, str] = {key: metric if key == "classifier" else name}
    return {**value, "metric": metric} if key == "kind" else value


def needed_columns() -> str:
    """Return which columns the rows of each kind of objective need, as the end of a sentence."""
    return "; ".join(f"{name}: {', '.join(_kind(name).needed)}" for name in KINDS.names())


def needed_parts(config: SearchConfig) -> frozenset[str]:
    """Return the parts that models get in memory besides those that transformers builds."""
    return frozenset({"modules"} if any(kind.needs_modules for kind in kinds_of(config)) else ())


def uses_templates(config: SearchConfig) -> bool:
    """Return whether texts may be made by chat templates; code of a user may do anything."""
    may = config.is_study or any(kind.uses_templates for kind in kinds_of(config))
    return may or config.evaluation.chat_template


def code_files(config: SearchConfig) -> list[Path]:
    """Return the files, of no installed package, that loading the tasks of a search file runs."""
    supplied = [
        item
        for split in SPLITS
        for name, item in getattr(config.evaluation, split).tasks.items()
        if name not in config.rows
    ]
    named = (name for name in config.every_task if name not in (*config.rows, BASE_TEXTS))
    names = [*named, *supplied]
    files = [file for name in names if ":" in name for file in code_of_module(name.split(":")[0])]
    if not all(map(_is_function, names)):
        files += code_of_tasks(_folders(config))
    return list(dict.fromkeys(files))


def _is_function(name: str) -> bool:
    return ":" in name or (name not in KINDS.builtin and name in KINDS.names())


def _folders(config: SearchConfig) -> list[Path]:
    include = config.evaluation.include
    return [zoo.tasks_path() if folder == "zoo:tasks" else Path(folder) for folder in include]


def stock_tasks(config: SearchConfig) -> list[str]:
    """Return the tasks that lm_eval scores."""
    others = (*config.rows, BASE_TEXTS)
    return [name for name in config.every_task if name not in others and not _is_function(name)]


def stock_command(
    record: Record, run: Path, *, single_thread: bool, stored_dtype: bool
) -> str | None:
    """Return the `lm_eval` command that scores the model in `MODEL_DIR` on the test documents.

    None: not all tasks are lm-eval's own, or its options cannot name them. Where candidates were
    scored by a `single_thread`, so does the command: with all cores, a small model takes minutes on
    a busy machine, and bits may differ. `stored_dtype`: the model is scored in the dtype of its
    files.
    """
    config = record.config
    config = config.with_values("evaluation", also=[])
    evaluation, tasks = config.evaluation, stock_tasks(config)
    test, are_all = evaluation.test, bool(tasks) and tasks == config.tasks
    usual = test.task_split in (None, "test")  # what lm-eval takes by itself
    if not are_all or test.tasks or not usual or len(evaluation.include) > 1:
        return None
    dtype = "auto" if stored_dtype and evaluation.float32 is not True else config.compute
    model = ["pretrained=MODEL_DIR", f"dtype={dtype}"]
    given = {name: getattr(evaluation, name) for name in ("enable_thinking", "think_end_token")}
    model += [f"{name}={value}" for name, value in given.items() if value is not None]
    kind = "hf-multimodal" if record.sees else "hf"
    words = ["--model", kind, "--model_args", ",".join(model), "--tasks", ",".join(tasks)]
    words += ["--batch_size", str(evaluation.batch_size).replace("auto", "1")]
    if evaluation.fewshot is not None:
        words += ["--num_fewshot", str(evaluation.fewshot)]
    for folder in _folders(config):
        words += ["--include_path", str((run / folder).resolve())]
    if evaluation.generation.changes:
        words += ["--gen_kwargs", json.dumps(evaluation.generation.changes)]
    if evaluation.chat_template:
        words.append("--apply_chat_template")
    files = map(read_task_file, task_files(run / folder for folder in _folders(config)))
    starts = {str(file.path.parent) for file in files if file.data_files}
    if len(starts) > 1:
        return None  # lm_eval looks for relative data files in the working folder only
    start = ["OMP_NUM_THREADS=1", "lm_eval"] if single_thread else ["lm_eval"]
    if record.allow_code:
        start.insert(0, "HF_ALLOW_CODE_EVAL=1")  # Hugging Face's `code_eval` wants it
        words.append("--confirm_run_unsafe_code")
    for where in starts:
        start = ["cd", shlex.quote(where), "&&", *start]
        run = run.absolute()
    results = f"evomerge results {shlex.quote(str(run))} --documents test"
    return " ".join([*start, *map(shlex.quote, words), "--samples", f'"$({results})"'])


def function_names(config: SearchConfig) -> list[str]:
    """Return the names of the objective functions of a search file, also of single splits."""
    names = [n for n in config.every_task if n not in config.rows and _is_function(n)]
    splits = [getattr(config.evaluation, split).tasks for split in SPLITS]
    names += [tasks[name] for tasks in splits for name in tuple(names) if name in tasks]
    return list(dict.fromkeys(names))


def check_files(config: SearchConfig) -> Iterator[str]:
    """Yield a sentence about each file of rows that is not there.

    ConfigError: a kind of objectives or a folder of tasks is not there.
    """
    check_folders(_folders(config))
    for kind, file in config.rows.values():
        KINDS.check(kind)
        if not is_file(Path(file)):
            yield (
                f"objectives: there is no file {file!r}; its path starts from the search file's "
                "folder."
            )


def check_rows(config: SearchConfig) -> Iterator[str]:
    """Yield a sentence about each key that only lm-eval's tasks have, where none is scored."""
    if not config.rows or not set(config.tasks) <= config.rows.keys():
        return
    keys = {"fewshot", "chat_template", "think_end_token", "generation"}
    changes = config.evaluation.model_dump(include=keys, exclude_defaults=True)
    splits = {split: getattr(config.evaluation, split).task_split for split in SPLITS}
    changes |= {f"{split}.task_split": wanted for split, wanted in splits.items() if wanted}
    for key, value in changes.items():
        yield (
            f"`evaluation.{key}` is {shown(value)}, which only tasks of lm-eval have, but "
            f"{config.tasks[0]!r} has rows of its own; remove it."
        )


def load(config: SearchConfig, allowed: Permissions = NOTHING) -> Evaluator:
    """Load the objectives of a search file. This imports lm_eval, if there are tasks of it.

    ConfigError: a folder, a task or a function does not exist or cannot be loaded, its code is not
    allowed, or the backend is not installed.
    """
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.tasks.base_texts import BaseTexts
    from evomerge.evaluation.tasks.functions import find

    evaluation, rows = config.evaluation, config.rows
    evaluation.engine.check()
    allowed.require(code_files(config))
    tasks = stock_tasks(config)
    lm_eval = _load_lm_eval(config, tasks, allowed) if tasks else None
    by_name: dict[str, Objective] = {
        name: find(name) for name in config.every_task if name not in (*tasks, *rows, BASE_TEXTS)
    }
    if (texts := config.also_texts) is not None:
        by_name[BASE_TEXTS] = BaseTexts(texts)
    for name, (kind, file) in rows.items():
        by_name[name] = _kind(kind).load(kind, file, evaluation.batch_size, name)
    by_split: dict[Split, list[Objective]] = {}
    for split in SPLITS:
        section, task_splits = getattr(evaluation, split), _task_splits(config, split)
        if section.tasks or task_splits:
            others = dict(by_name)
            for name, item in section.tasks.items():
                if name in rows:
                    kind = rows[name][0]
                    others[name] = _kind(kind).load(kind, item, evaluation.batch_size).under(name)
                elif name in by_name:
                    others[name] = find(item).under(name)
            other = {name: item for name, item in section.tasks.items() if name in tasks}
            by_split[split] = [*others.values()]
            if lm_eval is not None:
                where = f"evaluation.{split}"
                by_split[split].insert(0, lm_eval.with_documents_from(other, task_splits, where))
    measured = {(item.source, item.metric) for item in (*config.objectives, *config.constraints)}
    properties = [name for name in MODEL_METRICS if (MODEL, name) in measured]
    return Evaluator([*filter(None, [lm_eval]), *by_name.values()], by_split, properties)


def _load_lm_eval(config: SearchConfig, tasks: Sequence[str], allowed: Permissions) -> LmEval:
    from evomerge.evaluation.inference.reference import Reasoning
    from evomerge.evaluation.lm_eval.objective import LmEval
    from evomerge.evaluation.lm_eval.requests import Runner
    from evomerge.evaluation.lm_eval.tasks import Harness

    evaluation = config.evaluation
    harness = Harness(
        tasks,
        _folders(config),
        fewshot=evaluation.fewshot,
        apply_chat_template=evaluation.chat_template,
        generation=evaluation.generation.changes,
        allowed=allowed,
    )
    plain = [name for name, it in harness.info.tasks.items() if not it.generates]
    if evaluation.enable_thinking and plain:
        raise ConfigError(
            f"`evaluation.enable_thinking` is true, but task {plain[0]!r} compares "
            "log-likelihoods of given answers, before which a model cannot reason; take a task "
            "that generates texts, or set `enable_thinking` to false."
        )
    reasoning = Reasoning(evaluation.enable_thinking, evaluation.think_end_token)
    measured = config.every_measured
    return LmEval(
        harness,
        Runner(
            batch_size=evaluation.batch_size,
            engine=evaluation.engine,
            tensor_parallel=evaluation.tensor_parallel,
            reasoning=reasoning,
        ),
        counted={item.source for item in measured if item.metric == TOKENS},
        referenced=_referenced(config, harness.info),
        seed=config.seed,
    )


def _referenced(config: SearchConfig, info: TasksInfo) -> set[str]:
    """Return the tasks whose reference answers are scored."""
    wanted = [item.source for item in config.objectives if NLL in (item.metric, item.tie_breaker)]
    others = (*config.constraints, *config.evaluation.also)
    wanted += [item.source for item in others if item.metric == NLL]
    known = {*info.tasks, *info.groups}
    return {task for name in wanted if name in known for task in info.leaves(name)}


def _task_splits(config: SearchConfig, split: Split) -> Mapping[str, str]:
    """Check where a split's documents come from; return task -> its split in lm-eval, if wanted."""
    if split != "test":  # what is scored on test documents only needs no others
        config = config.with_values("evaluation", also=[])
    section, tasks = getattr(config.evaluation, split), stock_tasks(config)
    wanted = section.task_split or {}
    by_task = {} if isinstance(wanted, str) else wanted
    keys = {"tasks": (section.tasks, config.every_task), "task_split": (by_task, tasks)}
    for key, (named, names) in keys.items():
        for name in (name for name in named if name not in names):
            raise ConfigError(
                f"`evaluation.{split}.{key}` names {name!r}, but it can only name tasks of the "
                f"objectives: {', '.join(names) or 'here none'}.{did_you_mean(name, names)}"
            )
    return dict.fromkeys(tasks, wanted) if isinstance(wanted, str) else by_task
