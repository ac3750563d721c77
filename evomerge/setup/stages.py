"""Searches in stages, each of which can use the winners of earlier ones.

A search file has such a search in its key `stages`. Keys outside of `stages` apply to every stage;
a stage's own keys replace them. In a stage, `stage:N` is the winner of stage N, as a parent, base
or host. The folder of the search contains `stages.yaml` and the runs `stage-1`, `stage-2`, ...,
each an ordinary run folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import ConfigError, InputError, RunFolderError, not_written
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import RUN
from evomerge.parsing.texts import read_text
from evomerge.parsing.values import replaced
from evomerge.parsing.yaml import yaml_mapping, yaml_text
from evomerge.run.atomic import create_folder
from evomerge.run.folder import STAGES, RunFolder, begun_stages, remove_stages, stage_folder
from evomerge.setup.check import check_search
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.merges import MergeOpener
from evomerge.setup.parents import is_winner_of_stage, winner_of_stage
from evomerge.setup.runs import begin, continued, open_model, prepare
from evomerge.setup.space import host_of
from evomerge.trust.consent import NOTHING, Permissions, is_recorded, read_code, record

_STAGE = re.compile(r"stage:(\d+)")
_KEPT = ("allow_pickle", "allow_code")


def is_staged(data: Mapping[str, Any]) -> bool:
    """Return whether a search file has stages."""
    return "stages" in data


def check(
    data: Mapping[str, Any],
    source: Path,
    allowed: Permissions = NOTHING,
    gpu_memory: int | None = None,
) -> list[CheckedSearch]:
    """Check every stage and return the searches, as `check_search` does.

    The winners of earlier stages do not exist yet. In their place the check uses the host of the
    earlier stage, as a model with the same shapes.
    """
    stand_ins: dict[str, str] = {}
    opener = MergeOpener(open_model)

    def stand_in(reference: str, relative_to: Path, **how: Any) -> Checkpoint:
        opened = opener(stand_ins.get(reference, reference), relative_to, **how)
        return replace(opened, reference=reference)

    searches = []
    for number, config in enumerate(configs(data, str(source)), 1):
        searches.append(
            check_search(config, source.parent, stand_in, allowed, gpu_memory=gpu_memory)
        )
        host = host_of(config)
        stand_ins[f"stage:{number}"] = stand_ins.get(host, host)
    return searches


def configs(data: Mapping[str, Any], source: str) -> list[SearchConfig]:
    """Return the search file of every stage; parents that are earlier stages are `stage:N`.

    Raises:
        ConfigError: a stage has a mistake that its text alone shows.
    """
    every = range(1, _count(data) + 1)
    earlier = [{name: name for name in (f"stage:{i}" for i in range(1, n))} for n in every]
    return [_stage(data, n, earlier[n - 1], f"{source}, stage {n}") for n in every]


def needs_winner(checked: CheckedSearch) -> bool:
    """Return whether a stage that was checked uses the winner of an earlier stage."""
    return any(_STAGE.fullmatch(name) for name in checked.checkpoints)


def start(
    data: Mapping[str, Any], source: Path, folder: Path, allowed: Permissions = NOTHING
) -> list[CheckedSearch]:
    """Check every stage, create the folder and return the searches; `run_stages` runs them.

    Raises:
        InputError: a stage is wrong, or the folder is not empty or cannot be written.
    """
    searches = check(data, source, allowed)
    kept = {name: getattr(allowed, name) for name in _KEPT}
    plain = {**data, "origin": str(source.parent.resolve()), **kept}
    try:
        create_folder(folder, {STAGES: yaml_text(plain, width=110)})
    except OSError as error:
        RunFolder.check_free(folder)
        fix = "give --run a folder that can be written"
        raise not_written(str(folder), error, fix, RunFolderError) from error
    if any(kept.values()):
        file = read_code(folder / STAGES)
        record({file.digest: str(file.path)})
    return searches


def is_same(folder: Path, data: Mapping[str, Any]) -> bool:
    """Return whether a folder holds the search in stages that a search file describes.

    Raises:
        RunFolderError: its file cannot be read.
    """
    if not (folder / STAGES).is_file():
        return False
    known = _read(folder)
    # Written and read, since 1e-05 may become another number there.
    asked = yaml_mapping(
        yaml_text(dict(data), width=110), "stages", "a search in stages", ConfigError
    )
    return {key: known[key] for key in known if key not in ("origin", *_KEPT)} == asked


def with_candidates(data: Mapping[str, Any], candidates: int) -> dict[str, Any]:
    """Return the search file with this bound on the candidates of every stage.

    Other bounds of the budget stay: the stage's own, or else those of the whole file.
    """
    stages = []
    for own in data["stages"][: _count(data)]:
        budget = own.get("budget", data.get("budget"))
        if isinstance(budget, Mapping) or budget is None:  # else the check reports the mistake
            budget = {**(budget or {}), "candidates": candidates}
        stages.append({**own, "budget": budget})
    return {**data, "stages": stages}


def run_stages(
    folder: Path,
    each: Callable[[RunFolder, CheckedSearch], None],
    allowed: Permissions = NOTHING,
) -> None:
    """Run the stages one after the other; stages that have begun are continued.

    If the first stage's run is removed, since nothing was scored, the whole folder is.

    Args:
        folder: the folder that `start` has made.
        each: starts or continues the search of one stage.
        allowed: what the user allows, beside what was allowed when the search was started here.

    Raises:
        InputError: a file of the folder is damaged, or a stage is wrong.
    """
    data = _read(folder)
    origin = data.pop("origin", None)
    if not isinstance(origin, str):
        raise RunFolderError(f"{folder / STAGES} was not written by a run: it has no `origin`.")
    kept = {name: bool(data.pop(name, False)) for name in _KEPT}
    if is_recorded(read_code(folder / STAGES).digest):
        allowed = allowed.and_also(**kept)
    for number in range(1, _count(data) + 1):
        path = stage_folder(folder, number)
        if path.exists():
            run = RunFolder(path)
            checked = continued(run, allowed=allowed)
        else:
            config = _new_stage(data, number, folder)
            earlier = None if number == 1 else stage_folder(folder, 1)
            run, checked = begin(path, prepare(config, Path(origin), allowed, stage=earlier))
        try:
            each(run, checked)
        except InputError:
            if not begun_stages(folder):
                remove_stages(folder)
            raise
        if run.is_asked_to_stop:
            return


def _read(folder: Path) -> dict[str, Any]:
    text = read_text(folder / STAGES, RunFolderError)
    return yaml_mapping(text, str(folder / STAGES), "a search in stages", RunFolderError)


def _new_stage(data: Mapping[str, Any], number: int, folder: Path) -> SearchConfig:
    """Return the search file of a stage that has not begun."""
    winners = {f"stage:{n}": winner_of_stage(n) for n in range(1, number)}
    config = _stage(data, number, winners, f"{folder}, stage {number}")
    # Of a start only the genomes that are found there are kept, so its path can be absolute.
    starts = [
        f"{RUN}{(folder / Path(item).name).resolve()}" if is_winner_of_stage(item) else item
        for item in config.optimizer.start
    ]
    return config.with_values("optimizer", start=starts)


def _count(data: Mapping[str, Any]) -> int:
    stages = data.get("stages")
    if not isinstance(stages, list) or not stages or not all(isinstance(s, dict) for s in stages):
        raise ConfigError("`stages` must be a list with one mapping for each stage.")
    return len(stages)


def _stage(
    data: Mapping[str, Any], number: int, names: Mapping[str, str], source: str
) -> SearchConfig:
    """Return the search file of one stage, with `names` in place of earlier `stage:N`."""

    def found(value: Any) -> Any:
        if isinstance(value, str) and _STAGE.fullmatch(value):
            if value not in names:
                raise ConfigError(
                    f"{source}: {value!r} is not an earlier stage; allowed are "
                    f"{', '.join(names) or 'none in the first stage'}."
                )
            return names[value]
        if isinstance(value, str) and is_winner_of_stage(value):
            raise ConfigError(
                f"{source}: {value!r} is how a run names its own stages; write `stage:N` for an "
                "earlier stage, or the absolute path of another run."
            )
        return value

    common = {key: value for key, value in data.items() if key != "stages"}
    return parse(replaced({**common, **data["stages"][number - 1]}, found), source)
