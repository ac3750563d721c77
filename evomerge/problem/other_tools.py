"""What `evomerge init --from` takes over from a file of mergekit or mergekit-evolve."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import ConfigError, listed
from evomerge.mergekit.into_search import search_parts
from evomerge.mergekit.ranges import SearchParts
from evomerge.parsing.texts import read_text


def parts_of(
    source: Path, parents: Sequence[str], base: str | None, tasks: Sequence[str]
) -> SearchParts:
    """Return what a search file takes over from another tool's file."""
    if parents or base:
        raise ConfigError(
            f"--from {source} names the parents and the base, and so do --parents and --base; "
            "give one or the other."
        )
    taken = search_parts(read_text(source, ConfigError), str(source))
    if not taken.parents:
        raise ConfigError(
            f"--from {source} lists no model besides the base, so there is nothing to merge; add "
            "one to the file."
        )
    if not taken.tasks and not tasks:
        raise ConfigError(
            f"--from {source} names no task, which a search needs to score merges; give --task T."
        )
    if tasks and taken.tasks:
        names = listed(str(task["task"]) for task in taken.tasks)
        taken.notes.append(f"`tasks` ({names}) are not carried over, since --task names others.")
        taken.tasks = []
    return taken


def space_of(taken: SearchParts, depth: int) -> dict[str, Any]:
    """Return the section `space` for a host with `depth` blocks."""
    space = dict(taken.space)
    groups = space.get("groups")
    if taken.blocks_per_group is not None:
        groups = max(1, depth // taken.blocks_per_group)
    if isinstance(groups, int):
        space["groups"] = min(groups, depth) if min(groups, depth) > 1 else "one"
    if space.get("groups") == "one":
        space.pop("smooth", None)
    return space


def metric_of(objective: Mapping[str, Any], metrics: Sequence[str], notes: list[str]) -> str | None:
    """Return the metric that a file names for a task, as evomerge names it.

    None: it names none, or one that the task does not have, which is added to `notes`.
    """
    asked = objective.get("metric")
    if asked is None:
        return None
    for name in (asked, asked.partition(",")[0]):  # without its filter if the task has only one
        if name in metrics:
            return str(name)
    notes.append(
        f"`metric` {asked!r} is not carried over, since the task {objective['task']} has only "
        f"{listed(metrics)}."
    )
    return None


def fill_in_evaluation(
    evaluation: dict[str, Any], taken: SearchParts, *, has_template: bool
) -> None:
    """Replace keys of `evaluation` by those of another tool's file."""
    asked = dict(taken.evaluation)
    if asked.get("chat_template") and not has_template:
        asked["chat_template"] = False
        taken.notes.append(
            "`apply_chat_template` is not carried over, since the host has no chat template."
        )
    evaluation |= asked
