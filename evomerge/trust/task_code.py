"""Whether functions and data sets of tasks can run code. Nothing of them runs.

A function can run text as code, which stands in documents and answers. To decide, its module is
parsed, and so is each module of lm-eval that it imports; nothing is imported. A module that cannot
be read, and a library that is not known to leave text alone, count as code that runs text.

A data set that task YAML names runs code when it is loaded if it is a script, a pickle, another
kind of files that is no plain data, or in a file system of fsspec, of which some run templates. A
folder may say so in its card, too.
"""

import ast
from collections.abc import Iterator
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from sys import stdlib_module_names
from typing import Any

import yaml

from evomerge.compat.fsspec import is_sandboxed
from evomerge.compat.lm_eval import CLEARED, LIBRARIES
from evomerge.models.references import is_file, is_folder

_BUILTINS = frozenset({"__builtins__", "__import__", "breakpoint", "compile", "eval", "exec"})

_ATTRIBUTES = frozenset(
    {
        *("__builtins__", "__code__", "__globals__", "__subclasses__", "eval", "exec", "query"),
        *("exec_module", "import_module", "load_module", "run_module", "run_path"),
        *("lambdify", "parse_expr", "parse_latex", "sympify"),
        *("fork", "forkpty", "popen", "posix_spawn", "posix_spawnp", "startfile", "system"),
        *("full_load", "read_pickle", "unsafe_load"),
    }
)
_STARTS_A_PROGRAM = ("execl", "execv", "spawnl", "spawnv")

_RUNS_TEXT = frozenset(
    {
        *("_pickle", "marshal", "pickle", "shelve", "concurrent", "multiprocessing", "subprocess"),
        *("_posixsubprocess", "_winapi", "nt", "posix", "pty", "builtins", "ctypes", "imp"),
        *("importlib", "code", "codeop", "runpy", "zipimport", "zipapp", "xmlrpc", "unittest"),
        *("bdb", "cProfile", "doctest", "pdb", "profile", "pydoc", "timeit", "trace", "venv"),
    }
)
"""Modules of Python that run text, or objects that text describes."""

_UNREAD = ast.Module([], [])
_RUNS_NO_TEXT = ("importlib.metadata", "importlib.resources")

_PROTOCOLS = frozenset({"file", "hf", "http", "https"})  # of data files that run nothing
_PLAIN = frozenset(
    {
        *("arrow", "audiofolder", "csv", "imagefolder", "json", "parquet"),
        *("pdffolder", "text", "videofolder", "xml"),
    }
)
"""Kinds of files of `datasets` that hold data only."""

_CARDS = ("README.md", ".huggingface.yaml", "dataset_infos.json")
_MOST = 1 << 20  # bytes of a card


def find_evaluation(file: Path) -> str | None:
    """Return why the functions of a module may run text as code; None: they do not.

    Args:
        file: the source of the module.

    Returns:
        A file and what it uses, such as `tasks/cruxeval/utils.py uses exec`.
    """
    for module in _reachable(file):
        if uses := _read(module)[0]:
            return f"{_short(module)} {uses[0]}"
    return None


def find_loads(file: Path) -> set[str]:
    """Return the data sets and metrics that a module, or one that it imports, loads by a name."""
    return {name for module in _reachable(file) for name in _read(module)[2]}


def _reachable(file: Path) -> Iterator[Path]:
    """Yield a module, and each one of lm-eval that it imports."""
    waiting, seen = [file.resolve()], set[Path]()
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            yield module
            waiting += _read(module)[1]


def list_uses(file: Path) -> list[str]:
    """Return everything by which one module could run text, cleared or not."""
    if (tree := _tree(file)) is _UNREAD:
        return ["cannot be read"]
    uses = dict.fromkeys(use for node in ast.walk(tree) for use in _uses(node, file))
    return sorted(uses, reverse=True)  # what is used says more than what is imported


@cache
def registered_metrics() -> frozenset[str]:
    """Return the metrics that lm-eval itself has; for others it runs a script of the Hub."""
    file = _lm_eval() / "api" / "metrics.py"
    calls = (node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.Call))
    named = (call for call in calls if getattr(call.func, "id", "") == "register_metric")
    values = (word.value for call in named for word in call.keywords if word.arg == "metric")
    return frozenset(str(value.value) for value in values if isinstance(value, ast.Constant))


def _read(file: Path) -> tuple[list[str], list[Path], list[str]]:
    """Return what of a module may run text, its modules of lm-eval, and what it loads by names."""
    return _read_once(file, file.stat().st_mtime_ns if is_file(file) else 0)


@lru_cache(maxsize=1000)
def _read_once(file: Path, changed: int) -> tuple[list[str], list[Path], list[str]]:
    cleared = CLEARED.get(_short(file), {}) if file.is_relative_to(_lm_eval()) else {}
    uses = [use for use in list_uses(file) if use not in cleared]
    nodes = list(ast.walk(_tree(file)))
    calls = (node for node in nodes if isinstance(node, ast.Call))
    loads = [call for call in calls if _name_of(call.func) in ("load", "load_dataset")]
    texts = (arg.value for call in loads for arg in call.args if isinstance(arg, ast.Constant))
    names = [name for node in nodes for name in _imported(node)]
    imported = [path for name in names for path in _files(name, file)]
    return uses, imported, [text for text in texts if isinstance(text, str)]


def _tree(file: Path) -> ast.Module:
    """Return the syntax tree of a module, which is empty if it cannot be read."""
    try:
        return ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return _UNREAD


def _name_of(function: ast.expr) -> str:
    return str(getattr(function, "id", getattr(function, "attr", "")))


def _uses(node: ast.AST, file: Path) -> Iterator[str]:
    """Yield by what a node of a syntax tree could run text."""
    if isinstance(node, ast.Name) and node.id in _BUILTINS:
        yield f"uses {node.id}"
    elif isinstance(node, ast.Attribute) and _may_run(node.attr):
        yield f"uses {node.attr}"
    elif isinstance(node, ast.Call):
        yield from _uses_of_call(node)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"uses {alias.name}" for alias in node.names if _may_run(alias.name))
    for name in _imported(node):
        first = name.partition(".")[0]
        is_beside = not first and any(True for _ in _files(name, file))
        if is_beside or first in LIBRARIES or first in ("lm_eval", "evomerge"):
            continue
        is_plain = first in stdlib_module_names and first not in _RUNS_TEXT
        if not is_plain and not name.startswith(_RUNS_NO_TEXT):
            yield f"imports {name if first in _RUNS_TEXT or not first else first}"


def _may_run(name: str) -> bool:
    return name in _ATTRIBUTES or name.startswith(_STARTS_A_PROGRAM)


def _uses_of_call(node: ast.Call) -> Iterator[str]:
    """Yield by what a call could run text: its function is chosen by text, or told to."""
    function = node.func
    name = _name_of(function)
    texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
    if name in ("attrgetter", "getattr", "methodcaller"):
        chosen = node.args[name == "getattr" : 1 + (name == "getattr")]
        attributes = [arg.value if isinstance(arg, ast.Constant) else None for arg in chosen]
        if not attributes or not isinstance(attributes[0], str) or _may_run(attributes[0]):
            yield f"uses {name}"
    if name == "load" and "code_eval" in texts:
        yield "uses code_eval"
    if name == "load" and isinstance(function, ast.Attribute):
        yield from ["uses torch.load"] if getattr(function.value, "id", "") == "torch" else []
    for keyword in node.keywords:
        is_false = isinstance(keyword.value, ast.Constant) and not keyword.value.value
        if keyword.arg in ("allow_pickle", "shell") and not is_false:
            yield f"uses {keyword.arg}"


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the names of modules that a statement imports; relative ones begin with dots."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        name = "." * node.level + (node.module or "")
        if node.level or name.partition(".")[0] == "lm_eval":  # a name may be a module, too
            package = name if name.endswith(".") else f"{name}."
            yield from (package + alias.name for alias in node.names)
        else:
            yield name


def _files(name: str, importer: Path) -> Iterator[Path]:
    """Yield the files of lm-eval that Python runs to import a module."""
    root = folder = _lm_eval()
    names = name.lstrip(".").split(".")
    if dots := len(name) - len(name.lstrip(".")):
        folder = importer.parents[dots - 1]
    elif names.pop(0) != "lm_eval":
        return
    for count in range(1, len(names) + 1):
        path = folder.joinpath(*names[:count])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if is_file(file) and file.resolve().is_relative_to(root):
                yield file.resolve()


@cache
def _lm_eval() -> Path:
    """Return the folder of lm-eval's code."""
    spec = find_spec("lm_eval")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    return Path(folders[0]).resolve() if folders else Path("lm_eval").resolve()


def _short(file: Path) -> str:
    """Return the name of a file, from lm-eval's folder on where it is in there."""
    root = _lm_eval()
    return file.relative_to(root).as_posix() if file.is_relative_to(root) else str(file)


def runs_code(node: yaml.Node) -> bool:
    """Whether the data set that a mapping of task YAML names may run code."""
    keys = [name.value for name, _ in node.value] if isinstance(node, yaml.MappingNode) else []
    if "trust_remote_code" in keys or "storage_options" in keys or "use_prompt" in keys:
        return True  # whatever the value; a prompt is read from another file
    files = [*texts_in(node, "dataset_kwargs"), *texts_in(node, "dataset_name")]
    return any(map(_is_elsewhere, files)) or any(map(_is_code, texts_in(node, "dataset_path")))


def texts_in(node: yaml.Node, key: str) -> Iterator[str]:
    """Yield all texts in the values that a mapping has for a key."""
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    for inner in nodes_in(*(value for name, value in pairs if name.value == key)):
        if isinstance(inner, yaml.ScalarNode):
            yield str(inner.value)


def nodes_in(*roots: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield nodes and all nodes inside of them, each once."""
    waiting, seen = [*roots], set[int]()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        if not isinstance(node, yaml.ScalarNode):
            for child in node.value:  # a mapping has pairs of a key and a value
                waiting += child if isinstance(child, tuple) else [child]


def find_script(name: str) -> Path | None:
    """Return the script in the working folder that a data set or metric of a name would be."""
    path = Path(name)
    beside = path / f"{path.name}.py"
    return next(filter(is_file, (path, beside)), None) if name else None


def find_data(name: str, is_all: bool) -> Path | None:
    """Return the folder that a data set of a name would be: any, or one that runs code."""
    path = Path(name)
    if name in _kinds() or not (is_folder(path) or is_file(path)):
        return None
    return path if is_all or _is_code(name) else None


def _is_elsewhere(place: str) -> bool:
    """Whether a place of data files is in a file system that may run code."""
    protocol, separator, _ = place.partition("://")
    return "::" in place or (bool(separator) and protocol.lower() not in _PROTOCOLS)


def _is_code(name: str) -> bool:
    """Whether the data set of a name is a script, no plain data, or has a card that names such."""
    if name in _PLAIN:
        return False
    path = Path(name)
    if name in _kinds() or find_script(name) or _is_elsewhere(name):
        return True
    cards = [path / card for card in _CARDS if is_file(path / card)]
    if not is_sandboxed() and (cards or not is_folder(path)):  # on the Hub there is a card, too
        return True
    return any(map(_names_code, cards))


@cache
def _kinds() -> frozenset[str]:
    """Return the kinds of files that the installed `datasets` knows."""
    spec = find_spec("datasets")
    folders = map(Path, (spec and spec.submodule_search_locations) or ())
    inside = (path for folder in folders for path in folder.glob("packaged_modules/*"))
    return frozenset(path.name for path in inside if is_folder(path))


def _names_code(card: Path) -> bool:
    """Whether the card of a data set names files elsewhere; also if it cannot be read."""
    from huggingface_hub import DatasetCard

    try:
        with card.open("rb") as file:
            content = file.read(_MOST + 1)
        text = content.decode("utf-8-sig")
        if len(content) > _MOST:
            return True
        if card.name == "README.md":
            about: Any = DatasetCard(text, ignore_metadata_errors=True).data
            data = about.to_dict()
        else:
            data = yaml.safe_load(text)
    except Exception:  # `datasets` may read what cannot be read here
        return True
    return any(map(_is_elsewhere, _strings(data)))


def _strings(data: Any) -> Iterator[str]:
    """Yield all texts in parsed data, keys included."""
    waiting, seen = [data], set[int]()
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            waiting += [*value, *(value.values() if isinstance(value, dict) else ())]
