"""What files of task YAML say, and which of a stranger's may run code. Nothing of them runs.

A task of a stranger runs no code if its YAML, and all YAML that it includes or names, only
describes. What else runs something: a function (`!function`) or any other tag of its own; Python
beside the YAML; a metric or a data set with a script; data files in a file system of fsspec, of
which some run templates; and a change of what functions of an installed task get to read
(documents, filters, processing, flags), since some run text as code.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from evomerge.compat.lm_eval import Index, beside
from evomerge.models.references import is_file
from evomerge.trust import task_code
from evomerge.trust.code import files_of_module, is_installed

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # lm-eval takes that of C too
_PLAIN = "tag:yaml.org,2002:"
_SCALARS = frozenset({"bool", "float", "int", "merge", "null", "str", "timestamp"})
_GROUP = frozenset({"aggregate_metric_list", "group", "group_alias", "metadata", "task"})
"""Keys of a group that are its own; it gives all others to each task in it."""

_NAMES = frozenset(
    {
        *("aggregate_metric_list", "group", "group_alias", "include", "num_fewshot"),
        *("tag", "task", "task_alias", "task_list"),
    }
)
"""Keys that change nothing that a function reads."""

_DEEPEST = 8  # groups one in the other

_NAMING = ("group", "tag", "task")

_SELECTS = frozenset(
    {
        *("description", "fewshot_split", "generation_kwargs"),
        *("test_split", "training_split", "validation_split"),
    }
)
"""Keys that choose among a task's own documents, or change what a model is asked.

They are harmless unless a function runs text as code.
"""


class Member(NamedTuple):
    """A task or group that a group names, and the keys that the group changes for it."""

    name: str
    changed: frozenset[str]


class TaskFile(NamedTuple):
    """What a file of task YAML says.

    Attributes:
        path: the file, with symbolic links resolved.
        keys: the keys at its top; `metadata` is missing if it has a version only.
        name: the task or group that it describes.
        includes: the files that it includes and that exist.
        missing: other files that it includes.
        misnamed: the first of `group`, `tag` and `task` that is no text, or an empty text.
        functions: the names of its functions (`module.function`).
        members: what it names, if it is a group.
        allows_code: whether it says that answers are run as code (`unsafe_code`).
        data_sets, metrics: the names of them that it has.
        data_files: its files of documents with a relative path, such as are there beside it.
        runs: whether lm-eval runs code for the file itself, whoever wrote it.
    """

    path: Path
    keys: frozenset[str] = frozenset()
    name: str = ""
    includes: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()
    misnamed: str = ""
    functions: tuple[str, ...] = ()
    members: tuple[Member, ...] = ()
    allows_code: bool = False
    data_sets: frozenset[str] = frozenset()
    metrics: frozenset[str] = frozenset()
    data_files: frozenset[Path] = frozenset()
    runs: bool = False

    def modules(self) -> Iterator[tuple[str, Path | None]]:
        """Yield the name and the source of each module whose functions it names."""
        for name in dict.fromkeys(text.rpartition(".")[0] for text in self.functions):
            beside = (self.path.parent / f"{name.replace('.', '/')}.py").resolve()
            files = [beside] if is_file(beside) else files_of_module(name)
            is_whole = is_file(beside) or len(files) > min(1, name.count("."))
            yield name, files[-1].resolve() if is_whole else None

    def find_stand_in(self, evaluates: bool) -> Path | None:
        """Return what would run, or be run, from the working folder in place of the Hub's.

        Both `datasets` and `evaluate` look there first, and run a script that they find. Documents
        from there matter if a function of the task `evaluates` text.
        """
        loaded = (task_code.find_loads(file) for _, file in self.modules() if file)
        scripts = map(task_code.find_script, sorted(self.metrics.union(*loaded)))
        data = (task_code.find_data(name, evaluates) for name in sorted(self.data_sets))
        return next(filter(None, (*scripts, *data)), None)

    def find_evaluation(self) -> str | None:
        """Return why the file lets lm-eval run text as code; None: it does not."""
        if self.allows_code:
            return f"{self.path.name} says so"
        for name, file in self.modules():
            if reason := task_code.find_evaluation(file) if file else f"{name} cannot be read":
                return reason
        return None


def read_task_file(path: Path) -> TaskFile:
    """Return what a file says: nothing if it is no valid YAML, since lm-eval does not take it.

    A file that cannot be understood counts as code that runs text.
    """
    file = path.resolve()
    try:
        root = yaml.compose(file.read_bytes(), Loader=_Loader)
    except (OSError, yaml.YAMLError):
        return TaskFile(file)
    except (ValueError, RecursionError):
        return TaskFile(file, allows_code=True, runs=True)
    try:
        return _read(file, root)
    except (ValueError, RecursionError):
        return TaskFile(file, allows_code=True, runs=True)


def _read(file: Path, root: yaml.Node | None) -> TaskFile:
    nodes = list(task_code.nodes_in(root))
    pairs = list(_pairs(root))
    flags = [text.lower() for node in nodes for text in task_code.texts_in(node, "unsafe_code")]
    metrics = {text for node in nodes for text in task_code.texts_in(node, "metric")}
    names = {key: str(value.value) for key, value in pairs if isinstance(value, yaml.ScalarNode)}
    texts = [text for node in nodes for text in task_code.texts_in(node, "include")]
    included = [path for text in texts if (path := _resolved(file.parent / text))]
    return TaskFile(
        path=file,
        keys=frozenset(key for key, value in pairs if not _is_version(key, value)),
        name=names.get("group", names.get("task", "")),
        includes=tuple(dict.fromkeys(filter(is_file, included))),
        missing=tuple(path for path in included if not is_file(path)),
        misnamed=next((key for key, value in pairs if key in _NAMING and _is_no_name(value)), ""),
        functions=tuple(str(node.value) for node in nodes if node.tag == "!function"),
        members=tuple(_members(root, frozenset())),
        allows_code="code_eval" in metrics or not {*flags} <= {"false", "no", "off", ""},
        data_sets=frozenset(
            text for node in nodes for text in task_code.texts_in(node, "dataset_path")
        ),
        metrics=frozenset(metrics),
        data_files=frozenset(
            Path(there)
            for node in nodes
            for text in task_code.texts_in(node, "data_files")
            if (there := beside(text, file.parent)) != text
        ),
        runs=any(map(_runs, nodes)),
    )


def _resolved(path: Path) -> Path | None:
    """Return a path as lm-eval opens it, so `nowhere/../part` is `part`; None: it cannot be one."""
    try:
        return path.expanduser().resolve()
    except (OSError, RuntimeError, ValueError):
        return None


def read_chain(path: Path) -> list[TaskFile]:
    """Return a file and all that it includes, each once."""
    waiting, chain = [path.resolve()], dict[Path, TaskFile]()
    while waiting:
        if (file := waiting.pop()) not in chain:
            chain[file] = read_task_file(file)
            waiting += chain[file].includes
    return list(chain.values())


class Leaf(NamedTuple):
    """A task or group, with what a stranger changes for it.

    Attributes:
        name: its name in lm-eval.
        chain: its file, and all that this includes.
        changed: the keys that groups of a stranger change for it.
        groups: the files of these groups.
    """

    name: str
    chain: tuple[TaskFile, ...]
    changed: frozenset[str] = frozenset()
    groups: tuple[Path, ...] = ()


def find_leaves(index: Index, name: str) -> Iterator[Leaf]:
    """Yield the tasks and groups that lm-eval loads for the name of a task, a group or a tag."""
    waiting, seen = [Leaf(name, ())], set[Leaf]()
    while waiting:
        leaf = waiting.pop()
        if leaf in seen or (entry := index.get(leaf.name)) is None:
            continue  # a task that is written down in a group has no file, and no functions
        seen.add(leaf)
        waiting += [leaf._replace(name=tagged) for tagged in entry.tagged]
        chain = read_chain(entry.file) if entry.file else []
        if chain:  # a group, too, since what it includes may make a task of it
            yield leaf._replace(chain=tuple(chain))
        strange = [file for file in chain if not is_installed(file.path)]
        keys = leaf.changed.union(*(file.keys - _GROUP - _NAMES for file in strange))
        groups = tuple(dict.fromkeys((*leaf.groups, *(file.path for file in strange))))
        for file in chain:
            for member in file.members:
                changed = keys | member.changed if file in strange else keys
                waiting.append(Leaf(member.name, (), changed, groups))


def find_change(chain: Iterable[TaskFile], changed: Iterable[str] = ()) -> str | None:
    """Return a key by which a stranger changes what installed functions read, or None.

    Args:
        chain: the files of a task; those that are not installed are the stranger's.
        changed: the keys that are changed elsewhere: by groups or by the search file.
    """
    files = list(chain)
    installed = [file for file in files if file.functions and is_installed(file.path)]
    strange = (file.keys for file in files if not is_installed(file.path))
    keys = frozenset(changed).union(*strange) - _NAMES
    if not installed or not keys:
        return None
    if keys <= _SELECTS and not any(file.find_evaluation() for file in files):
        return None
    return min(keys - _SELECTS or keys)


def task_files(folders: Iterable[Path]) -> Iterator[Path]:
    """Yield the files that lm-eval reads in folders of tasks."""
    for folder in folders:
        yield from filter(is_file, sorted(folder.rglob("*.yaml")))


def code_of_tasks(folders: Iterable[Path]) -> list[Path]:
    """Return the files with code: YAML in folders, what it includes, Python beside them.

    Installed files have none, also where others include them. What a task changes of installed ones
    is looked at when it is loaded (`find_change`).
    """
    found: list[Path] = []
    for path in task_files(folder for folder in folders if not is_installed(folder)):
        for file in read_chain(path):
            if not is_installed(file.path):
                modules = [module for _, module in file.modules() if module]
                beside = (*modules, *sorted(file.path.parent.glob("*.py")))
                code = [module for module in beside if not is_installed(module)]
                found += [file.path, *code] if file.runs or code else []
    return list(dict.fromkeys(found))


def _pairs(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node]]:
    """Yield keys and values of a mapping, also of other mappings that it takes over (`<<`)."""
    waiting, seen = [node], set[int]()
    while waiting:
        mapping = waiting.pop()
        if isinstance(mapping, yaml.SequenceNode):  # `<<: [*a, *b]`
            waiting += mapping.value
        if not isinstance(mapping, yaml.MappingNode) or id(mapping) in seen:
            continue
        seen.add(id(mapping))
        for key, value in mapping.value:
            if key.tag == f"{_PLAIN}merge":
                waiting.append(value)
            else:
                yield str(key.value), value


def _is_no_name(value: yaml.Node) -> bool:
    """Whether a name, or one of a list of tags, is a number, a date or nothing."""
    values = value.value if isinstance(value, yaml.SequenceNode) else [value]
    scalars = (node for node in values if isinstance(node, yaml.ScalarNode))
    return any(node.tag != f"{_PLAIN}str" for node in scalars)


def _is_version(key: str, value: yaml.Node) -> bool:
    """Whether a key is `metadata` with nothing but a version; functions may get all of it."""
    if key != "metadata" or not isinstance(value, yaml.MappingNode):
        return False
    return all(
        name == "version" and isinstance(own, yaml.ScalarNode) for name, own in _pairs(value)
    )


def _members(node: yaml.Node | None, changed: frozenset[str], depth: int = 0) -> Iterator[Member]:
    """Yield what a group names, with the keys that it changes; also of groups inside of it.

    RecursionError: it has itself inside, or too many groups one in the other.
    """
    if depth > _DEEPEST:
        raise RecursionError
    pairs = list(_pairs(node))
    changed |= {key for key, _ in pairs} - _GROUP - {"include", "tag", "task_list"}
    for value in (value for key, value in pairs if key == "task"):
        for child in value.value if isinstance(value, yaml.SequenceNode) else ():
            if isinstance(child, yaml.ScalarNode):
                yield Member(str(child.value), changed)
            own = dict(_pairs(child))
            keys = {key for key, value in own.items() if not _is_version(key, value)}
            for name in (own[key] for key in ("task", "group") if key in own):
                if isinstance(name, yaml.ScalarNode):
                    yield Member(str(name.value), changed | keys - {"task", "group"})
            yield from _members(child, changed, depth + 1)


def _runs(node: yaml.Node) -> bool:
    """Whether lm-eval runs code for a node, or reads a text that is not seen here.

    A mapping that is called a text, or has the key `=`, becomes a text.
    """
    kind = "map" if isinstance(node, yaml.MappingNode) else "seq"
    kinds = _SCALARS if isinstance(node, yaml.ScalarNode) else {kind}
    if node.tag.removeprefix(_PLAIN) not in kinds or task_code.runs_code(node):
        return True
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    metrics = (value for key, value in pairs if key.value == "metric_list")
    return any(
        map(_is_elsewhere, (inner for value in metrics for inner in task_code.nodes_in(value)))
    )


def _is_elsewhere(node: yaml.Node) -> bool:
    """Whether lm-eval takes a metric from the Hub or from a file, as it does with unknown names."""
    flags = {text.lower() for text in task_code.texts_in(node, "hf_evaluate")}
    names = task_code.texts_in(node, "metric")
    return not flags <= {"false", "no", "off"} or not task_code.registered_metrics().issuperset(
        names
    )
