"""Many searches by one call that can be repeated: search files, values of keys, seeds."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.api.search import Runner, content_of, start, warn, with_bar
from evomerge.errors import (
    ConfigError,
    EvomergeError,
    InputError,
    RunInUseError,
    one_line,
)
from evomerge.parsing.values import path_of, shown
from evomerge.run.atomic import why_not_writable
from evomerge.run.folder import RunFolder, is_begun
from evomerge.run.journal import is_held
from evomerge.trust.consent import Permissions

if TYPE_CHECKING:
    from evomerge.report.sweeps import SweepTable
    from evomerge.setup.checked import CheckedSearch

_SEEDS = re.compile(r"(\d{1,9})(?:\.\.(\d{1,9}))?")
_MOST = 1000  # searches
_OPEN, _CLOSED = "[{(", "]})"


@dataclass(frozen=True)
class Planned:
    """One search of a sweep.

    Attributes:
        group: what it is apart from its seed: the name of its file, and values that differ.
        seed: its seed.
        data: content of its search file, with these values and this seed.
        source: path of the file.
        folder: its run folder.
    """

    group: str
    seed: int
    data: Mapping[str, Any]
    source: Path
    folder: Path

    @property
    def run(self) -> RunFolder | None:
        """The run; None: it has not begun."""
        return RunFolder(self.folder) if is_begun(self.folder) else None

    def is_finished(self) -> bool:
        """Whether the run has its result, and the search file asks for nothing more.

        Raises:
            InputError: the folder holds another search, or a damaged run.
        """
        from evomerge.report.progress import progress
        from evomerge.setup.going_on import going_on

        if (run := self.run) is None:
            return False
        bounds, _ = going_on(self.folder, self.data, self.source)
        return not bounds and progress(run)["state"] == "done"

    def is_in_use(self) -> bool:
        """Whether a process is running it now."""
        return self.run is not None and is_held(self.run.journal_path)


def sweep(
    files: Sequence[str | PathLike[str]] | Mapping[str, str | PathLike[str]],
    runs: str | PathLike[str],
    *,
    seeds: Iterable[int] = (0,),
    values: Mapping[str, Sequence[Any]] | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    progress: bool = True,
    allow_code: bool = False,
    trust_code: bool = False,
) -> SweepTable:
    """Run many searches, one after the other, and return the table of their results.

    Call it again after a kill, with more seeds or with other values: finished searches are not run
    again, and one that was interrupted goes on. A search that fails is a row of the table, and the
    others go on. Searches that another process is running are left to it, so several processes can
    do one sweep together.

    Args:
        files: search files; by name, if the names of the files are not to be used.
        runs: folder for the runs, `NAME-VALUE-...-SEED` each.
        seeds: the seeds of each search.
        values: key of a search file (`optimizer.name`) -> values; all combinations are run.
        variants: name -> changes `key.path=value` that belong together; each is run.
        progress: whether to show a progress bar for each search.
        allow_code: see `search`.
        trust_code: see `search`.

    Raises:
        InputError: a search file, a value or a seed is wrong; nothing was computed.
    """
    given = {key: [json.dumps(item) for item in items] for key, items in (values or {}).items()}
    searches = plan(files, path_of(runs, "runs"), list(seeds), given, variants)
    allowed = Permissions(allow_code, trust_code)
    return run_sweep(searches, allowed, with_bar(progress, ()), warn)


def plan(
    files: Sequence[str | PathLike[str]] | Mapping[str, str | PathLike[str]],
    runs: Path,
    seeds: Sequence[int],
    values: Mapping[str, Sequence[str]],
    variants: Mapping[str, Sequence[str]] | None = None,
    candidates: int | None = None,
) -> list[Planned]:
    """Return the searches of a sweep in the order in which they are run: seed by seed.

    Args:
        values: key -> values as YAML. A key with one value has it in all searches.
        candidates: takes the place of `budget.candidates`.

    Raises:
        InputError: a file cannot be read, a change does not fit, or two searches have one name.
    """
    from evomerge.config.schema import override, parse
    from evomerge.setup.space import check_methods
    from evomerge.setup.strategy import check_optimizer

    if isinstance(files, str) or not isinstance(files, Collection):
        raise InputError(
            f"files is {shown(files)}; give a list of search files, as [{shown(str(files))}]."
        )
    if not seeds or not files:
        raise InputError("A sweep needs at least one search file and one seed.")
    changed = (item.partition("=")[0] for items in (variants or {}).values() for item in items)
    if "seed" in {*values, *changed}:
        raise InputError(
            "A sweep sets `seed` itself, once for each of its seeds; give them by --seeds, in "
            "Python by `seeds`."
        )
    if not runs.is_dir() and (reason := why_not_writable(runs / "run")):
        raise InputError(f"--runs {runs} cannot be created: {reason}; give another folder.")
    named = (
        files
        if isinstance(files, Mapping)
        else {path_of(item, "files").stem: item for item in files}
    )
    if len(named) < len(files):
        raise InputError(
            "Two of the search files have the same name, and their runs would have the same "
            "folders; rename one."
        )
    found: dict[Path, Planned] = {}
    chosen = itertools.product(*([(key, item) for item in items] for key, items in values.items()))
    settings = list(itertools.product((variants or {"": ()}).items(), chosen))
    if (count := len(named) * len(settings) * len(seeds)) > _MOST:
        raise InputError(f"The sweep has {count:,} searches, and at most {_MOST:,} are allowed.")
    for seed, name, (variant, pairs) in itertools.product(seeds, named, settings):
        data, source = content_of(path_of(named[name], "files"))
        own = deepcopy(dict(data))
        for item in (*variant[1], *(f"{key}={value}" for key, value in pairs), f"seed={seed}"):
            override(own, item)
        if candidates is not None:
            override(own, f"budget.candidates={candidates}")
        differing = [value for key, value in pairs if len(values[key]) > 1]
        group = "-".join(filter(None, [name, *map(_slug, [variant[0], *differing])]))
        where = f"{source} ({group}, seed {seed})"
        config = parse(own, where)
        check_optimizer(config.optimizer.name)
        check_methods(config.space)
        folder = runs / f"{group}-{seed}"
        if folder in found:
            raise InputError(
                f"Two searches of the sweep would have the folder {folder}; give each seed, value "
                "and name once."
            )
        found[folder] = Planned(group, seed, own, source, folder)
    return list(found.values())


def run_sweep(
    searches: Sequence[Planned],
    allowed: Permissions,
    runner: Runner,
    warn: Callable[[CheckedSearch], None],
    say: Callable[[str], None] = lambda text: None,
) -> SweepTable:
    """Run what is not finished, and return the table of all; `say` is told what is run."""
    from evomerge.report.sweeps import Ran, SweepTable

    errors: dict[Path, str] = {}

    def is_left(number: int, item: Planned) -> bool:
        """Run a search if it is not finished; return whether another process runs it."""
        try:
            if item.is_in_use():  # asked first: if it ends after this, it is found finished next
                return True
            if item.is_finished():
                return False
            say(f"search {number} of {len(searches)}: {item.folder}")
            return not _is_run(item, allowed, warn, runner)
        except Exception as problem:
            known = isinstance(problem, EvomergeError)
            error = one_line(problem) if known else f"{type(problem).__name__}: {one_line(problem)}"
            errors[item.folder] = error
            say(f"{item.folder} failed: {error}")
            return False

    left, before = list(enumerate(searches, 1)), len(searches) + 1
    while 0 < len(left) < before:  # the process that ran one of them may have been killed since
        before, left = len(left), [pair for pair in left if is_left(*pair)]
    if left:
        names = ", ".join(item.folder.name for _, item in left)
        say(f"run by other processes: {names}; when these end, the same command has all results")
    return SweepTable.of(
        Ran(item.group, item.seed, item.folder, errors.get(item.folder)) for item in searches
    )


def _is_run(
    item: Planned,
    allowed: Permissions,
    warn: Callable[[CheckedSearch], None],
    runner: Runner,
) -> bool:
    """Run a search to its end; return False if another process was quicker to take it."""
    begun = is_begun(item.folder)
    try:
        start(item.data, item.source, item.folder, None, allowed, warn, runner, resume=begun)
    except RunInUseError:
        return False
    return True


def parse_seeds(text: str) -> list[int]:
    """Return the seeds that a text such as `0..4` or `0,1,7` names.

    Raises:
        InputError: it is of another form.
    """
    found: list[int] = []
    for part in text.split(","):
        match = _SEEDS.fullmatch(part.strip())
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if last < first or last - first >= _MOST:
            raise InputError(
                f"--seeds is {shown(text)}, but must be as 0..4 (both included) or as 0,1,7."
            )
        found += range(first, last + 1)
    return found


def parse_values(items: Iterable[str]) -> dict[str, list[str]]:
    """Return key -> values of items such as `optimizer.name=cma,random`.

    A comma within brackets or quotes belongs to the value: `space.components=[attention, mlp]`.

    Raises:
        ConfigError: an item is not of this form, or a key is there twice.
    """
    found: dict[str, list[str]] = {}
    for item in items:
        key, separator, text = item.partition("=")
        if not separator or not key or not text:
            raise ConfigError(
                f"--set {shown(item)} is not of the form key.path=value or key.path=value,value."
            )
        if key in found:
            raise ConfigError(f"--set {key} is given twice; give all its values in one, as a,b.")
        found[key] = _split(text)
    return found


def _split(text: str) -> list[str]:
    """Return the parts between the commas that are in no brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if letter == "," and not depth and not quote:
            parts.append("")
            continue
        if letter in "'\"":
            quote = "" if quote == letter else quote or letter
        depth += (letter in _OPEN) - (letter in _CLOSED)
        parts[-1] += letter
    return [part.strip() for part in parts]


def _slug(text: str) -> str:
    """Return a value as a part of a folder's name."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")
