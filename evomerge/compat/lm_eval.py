"""What is private in lm-eval or differs between its versions from 0.4.12 on; what its code runs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.compat import need


class Entry(NamedTuple):
    """Where lm-eval has a task or a group from: a file, or the tasks that have a tag."""

    file: Path | None
    tagged: tuple[str, ...]


class Index:
    """Where a `TaskManager` has its tasks, groups and tags from; nothing of them is loaded."""

    def __init__(self, manager: Any) -> None:
        self._entries = need("lm_eval", manager, "task_index")

    def get(self, name: str) -> Entry | None:
        """Return where a task, group or tag is from; None: there is none of this name."""
        entry = self._entries.get(name)
        tagged = () if entry is None or entry.yaml_path else tuple(sorted(entry.tags))
        return None if entry is None else Entry(entry.yaml_path, tagged)


def start_data_beside_yaml(manager: Any) -> Any:
    """Return a `TaskManager` whose tasks find their `data_files` beside their YAML; see `beside`.

    lm-eval itself looks for them only where the command is given.
    """
    factory = need("lm_eval", manager, "_factory")
    need("lm_eval", factory, "_load_full_config")

    class DataBesideYaml(type(factory)):  # type: ignore[misc]
        def _load_full_config(self, entry: Any, overrides: Any = None) -> dict[str, Any]:
            config: dict[str, Any] = super()._load_full_config(entry, overrides)
            options = config.get("dataset_kwargs")
            if entry.yaml_path and isinstance(options, dict) and "data_files" in options:
                files = beside(options["data_files"], Path(entry.yaml_path).parent)
                config["dataset_kwargs"] = {**options, "data_files": files}
            return config

    manager._factory = DataBesideYaml(meta=need("lm_eval", factory, "_meta"))
    return manager


def beside(files: Any, folder: Path) -> Any:
    """Return the `data_files` of a task (paths or patterns, in lists or mappings) in a folder.

    Those that are not there stay as they are, so they start where the command is given.
    """
    if isinstance(files, Mapping):
        return {split: beside(value, folder) for split, value in files.items()}
    if isinstance(files, (list, tuple)):
        return [beside(value, folder) for value in files]
    if not isinstance(files, str) or "://" in files or Path(files).is_absolute():
        return files
    return str(folder.resolve() / files) if any(folder.glob(files)) else files


class Group(NamedTuple):
    """A group: the names of all tasks in it, and the settings of the metrics that it averages."""

    tasks: tuple[str, ...]
    averages: list[Mapping[str, Any]]


def load_tasks(manager: Any, spec: Any) -> tuple[dict[str, Any], dict[str, Group]]:
    """Return lm-eval's task objects and groups, by name.

    Args:
        manager: a `TaskManager`.
        spec: the name of a task or group; or a group that contains a dictionary, with the name of a
            task and keys to change, which is accepted inside of a group only.
    """
    tasks: dict[str, Any] = {}
    groups: dict[str, Group] = {}
    loaded = manager.load([spec])
    for task in loaded["tasks"].values():
        tasks[task.task_name] = task
    for name, group in loaded.get("groups", {}).items():
        below = tuple(task.task_name for task in need("lm_eval", group, "get_all_tasks")())
        averages = need("lm_eval", group, "aggregate_metric_list") or []
        groups[name] = Group(below, [vars(item) for item in averages])
    return tasks, groups


@contextmanager
def only_documents(task: Any, ids: Sequence[int]) -> Iterator[None]:
    """Let a task read only these documents, in this order, while it builds requests.

    lm-eval itself reads all documents of a task to find some, which takes seconds for large tasks.
    """
    need("lm_eval", task, "doc_iterator")
    documents = task.eval_docs
    task.doc_iterator = lambda **_: enumerate(documents[i] for i in ids)
    try:
        yield
    finally:
        del task.doc_iterator


def filters_of(task: Any) -> list[Any]:
    """Return a task's filters, which set `filtered_resps[filter.name]` of instances."""
    filters: list[Any] = need("lm_eval", task, "_filters")
    return filters


def encode_pair(lm: Any, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a context and of its continuation, as an `HFLM` encodes them."""
    before, after = need("lm_eval", lm, "_encode_pair")(context, continuation)
    return before, after


def seeing(processor: Any) -> type[Any]:
    """Return lm-eval's class for models that see, with a processor that is loaded already."""
    from lm_eval.models.hf_vlms import HFMultimodalLM

    need("lm_eval", HFMultimodalLM, "_create_tokenizer")

    class Seeing(HFMultimodalLM):  # type: ignore[misc]
        def _create_tokenizer(self, *arguments: Any, **options: Any) -> None:
            self.processor, self.tokenizer = processor, processor.tokenizer

    return Seeing


def replace_model(lm: Any, model: Any) -> None:
    """Let an `HFLM` generate with another model."""
    need("lm_eval", lm, "_model")
    lm._model = model


LIBRARIES: frozenset[str] = frozenset(
    {
        *("numpy", "pandas", "scipy", "sklearn", "torch"),  # numbers; their `eval` is looked for
        *("bert_score", "evaluate", "fuzzywuzzy", "radgraph", "rouge", "rouge_score", "sacrebleu"),
        *("absl", "emoji", "fugashi", "immutabledict", "iso639", "jieba", "langdetect", "neologdn"),
        *("nltk", "pymorphy3", "regex", "spacy", "wonderwords", "word2number"),  # words
        *("datasets", "huggingface_hub", "jsonschema", "lark", "PIL", "transformers"),  # data
        *("openai", "requests"),  # of the network
        *("packaging", "psutil", "pytablewriter", "tqdm", "typing_extensions"),
    }
)
"""Packages that tasks import and that never run a text as code, whatever stands in it.

Left out on purpose are sympy, math_verify (they evaluate formulas), statsmodels (patsy evaluates
formulas as Python), kstar_planner, pddl and tarski (they start planners), tinyBenchmarks (it loads
a pickle from the network), yaml, jinja2, dill and sqlitedict (pickles).
"""

_YAML = "it reads the YAML of tasks, which was looked at before"
_FUNCTIONS = "it imports the functions that the YAML of a task names"
_OWN = "it asks for attributes by names in the code of lm-eval or in YAML"

CLEARED: Mapping[str, Mapping[str, str]] = {
    "api/metrics.py": {"imports multiprocessing": "it repeats draws of numbers in processes"},
    "api/model.py": {
        "imports sqlitedict": "it keeps answers in a file that evomerge never asks for",
        "uses getattr": _OWN,
    },
    "api/registry.py": {
        "imports importlib": "it imports modules of lm-eval and of installed packages",
        "uses getattr": _OWN,
        "uses import_module": "it imports modules of lm-eval and of installed packages",
    },
    "api/task.py": {"uses getattr": _OWN},
    "caching/cache.py": {"imports dill": "it keeps requests in files that evomerge never asks for"},
    "config/evaluate_config.py": {
        "imports yaml": "it reads the options of lm-eval's command line",
        "uses getattr": _OWN,
    },
    "config/task.py": {"uses getattr": _OWN},
    "prompts/__init__.py": {
        "imports promptsource": "`use_prompt` of a stranger needs consent",
        "imports yaml": "`use_prompt` of a stranger needs consent",
        "uses full_load": "`use_prompt` of a stranger needs consent",
    },
    "tasks/_yaml_loader.py": {
        "imports importlib.util": _FUNCTIONS,
        "imports yaml": _YAML,
        "uses __import__": _FUNCTIONS,
        "uses exec_module": _FUNCTIONS,
        "uses getattr": _FUNCTIONS,
    },
    "tasks/super_glue/cb/t5_utils.py": {"uses getattr": "it takes a metric of sklearn by its name"},
    "tasks/xwinograd/utils.py": {"imports yaml": "it writes YAML, and only as a program"},
    "utils.py": {
        "imports importlib.util": _FUNCTIONS,
        "imports jinja2": "evomerge renders templates in a sandbox",
        "imports yaml": _YAML,
        "uses exec_module": _FUNCTIONS,
        "uses getattr": _OWN,
    },
}
"""File of lm-eval -> what it uses that could run text -> why it runs no document and no answer.

What is not listed here counts, so a file that uses more in another version of lm-eval is looked at
anew.
"""
