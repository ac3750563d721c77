"""Reading a search file: its keys, and all that can be said of its values before a model is opened.

Nothing heavy is imported. What parents, tasks and documents must fit, `check` says.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from evomerge.config import messages
from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig, read
from evomerge.config.space import SpaceKind
from evomerge.errors import ConfigError, InputError
from evomerge.evaluation.objectives import check_files, check_rows
from evomerge.merging.methods import METHODS
from evomerge.models.references import check_reference
from evomerge.problem.parents import absolute_config
from evomerge.problem.resolve import check_hosts
from evomerge.run.folder import CONFIG, MANIFEST, RunFolder

Check: TypeAlias = Callable[[SearchConfig, Path], Iterable[str] | None]
"""Yields sentences about mistakes, or raises an InputError; the folder is of relative paths."""

_NEEDED = {"parents": ["zoo:base"], "objectives": [{"told": "score"}]}
"""What stands for keys that are missing or wrong, so that the others can be checked."""


def read_search(data: Mapping[str, Any], source: Path) -> SearchConfig:
    """Return the search file with this content, which `source` names.

    ConfigError: there are mistakes, of each a sentence that names the file, the key and the value.
    """
    config, mistakes = messages.read(SearchConfig, data, _NEEDED)
    if config is not None:
        folder = folder_of(source)
        absolute = absolute_config(config, folder)
        for keys, check in CHECKS:
            places = [tuple(key.split(".")) for key in keys]
            if any(_touches(place or ("mode",), places) for place, _ in mistakes):
                continue  # it may follow from the other mistake
            try:
                mistakes += ((places[0], sentence) for sentence in check(absolute, folder) or ())
            except InputError as error:
                mistakes += [(places[0], sentence) for sentence in str(error).splitlines()]
    if config is None or mistakes:
        raise ConfigError(*(f"{source}: {sentence}" for _, sentence in mistakes))
    return config


def folder_of(source: Path) -> Path:
    """Return the folder that relative paths in a search file start from.

    That of a run is a copy, whose paths start where they did in the user's own file.

    RunFolderError: it is that of a run, and was changed by hand.
    """
    if _is_of_run(source):
        return Path(RunFolder(source.parent).manifest()["folder"])
    return source.absolute().parent


def load_any(path: Path, changes: list[str] | None = None) -> SearchConfig | Record:
    """Read a search file, with `key.path=value` in `changes`, or the record of a run.

    InputError: the file cannot be read, or has a mistake.
    """
    if _is_of_run(path) and not changes:
        return RunFolder(path.parent).record()
    return read_search(read(path, changes), path)


def _is_of_run(file: Path) -> bool:
    return file.name == CONFIG and (file.parent / MANIFEST).is_file()


def _touches(place: messages.Place, keys: Sequence[messages.Place]) -> bool:
    """Return whether a mistake can make what is said of these keys wrong.

    Of a section that is left out, one key alone has its default, which is right.
    """
    return any(
        place[: len(key)] == key or (len(keys) > 1 and key[: len(place)] == place) for key in keys
    )


def _each(names: Iterable[tuple[str, str]], check: Callable[[str], object]) -> Iterator[str]:
    """Yield a sentence about each name that is refused; the keys are in front of them."""
    for key, name in names:
        try:
            check(name)
        except InputError as error:
            yield f"`{key}`: {error}"


def _models(config: SearchConfig, folder: Path) -> Iterator[str]:
    names = [(f"parents[{index}]", name) for index, name in enumerate(config.parents)]
    names += [("base", config.base)] if config.base else []
    return _each(names, lambda name: check_reference(name, folder))


def _methods(config: SearchConfig, folder: Path) -> Iterator[str]:
    return _each([("space.method", name) for name in config.space.methods], METHODS.check)


def _space_of(config: SearchConfig) -> SpaceKind | None:
    """Return the section `space`; None: the strategy brings its own space."""
    return None if config.optimizer.has_own_space else config.space


def _knobs(config: SearchConfig, folder: Path) -> Iterable[str]:
    return space.check_knobs(config) if (space := _space_of(config)) else ()


def _sources(config: SearchConfig, folder: Path) -> Iterable[str]:
    return space.check_sources(config) if (space := _space_of(config)) else ()


CHECKS: Sequence[tuple[Sequence[str], Check]] = (
    (("parents",), _models),
    (("space.host", "space.outside", "parents"), lambda config, _: check_hosts(config)),
    (("space.method",), _methods),
    (("space", "parents", "base"), _sources),
    (("space.knobs", "space.method", "space.kind"), _knobs),
    (("optimizer.name",), lambda config, _: config.optimizer.check_name()),
    (("optimizer", "mode", "objectives"), lambda config, _: config.optimizer.check_setting(config)),
    (("optimizer.start", "optimizer.name"), lambda config, at: config.optimizer.check_starts(at)),
    (("evaluation.include", "objectives"), lambda config, _: check_files(config)),
    (("evaluation", "objectives"), lambda config, _: check_rows(config)),
)
"""What is checked, after the keys that it is about: it is left out if one of them is wrong."""
