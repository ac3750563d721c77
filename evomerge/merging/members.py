"""Members as checkpoints on disk: earlier candidates that are sources of later ones.

A member is written when it is first needed as a source, by the same code that exports models. So
its weights are those that were scored, rounded to the dtype of the search. The folder of the
members is a cache with a bound: what has not been used for longest is removed, and is built again
from its own sources when it is needed again. Several processes may use one folder; a member that
one of them reads is not removed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.merging.tensors.reader import Patch, resident_bytes
from evomerge.merging.writer import LEAST_MEMORY, write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.run.atomic import TemporaryFolder

KEPT = 24
"""Number of models that have room in the folder, if there is no other bound."""

_MEMORY = 2 << 30
"""Bytes that building a member may take in addition to what the process takes."""


class Members:
    """Opens the members of recipes, and builds those that are not there.

    Args:
        folder: folder of the members; None: a temporary one of this process.
        room: maximum bytes of the folder, except that the sources of the model that is being built
            always stay; None: as much as `KEPT` models take.
    """

    def __init__(
        self,
        parents: Mapping[str, Checkpoint],
        folder: Path | None = None,
        room: int | None = None,
        patches: Mapping[str, Patch] | None = None,
    ) -> None:
        self.parents, self._room, self._patches = parents, room, patches
        self._temporary = TemporaryFolder() if folder is None else None
        self.folder = self._temporary.path if self._temporary else Path(folder or "")
        self._locks: dict[str, int] = {}
        """File descriptors of the locks of the members that are in use, by digest."""

    def open(self, recipe: Recipe, threads: int | None = None) -> dict[str, Checkpoint]:
        """Return the members that a recipe names, by name. They stay until the next call.

        Those that are not there are built, in this many `threads` (see `write_model`).

        Raises:
            CheckpointError: a parent has changed, or the disk does not have enough room.
            CandidateError: a weight of a member is not finite.
        """
        unbuilt = [recipe]
        while True:
            self._release({it.digest for item in unbuilt for it in item.members.values()})
            current = unbuilt[-1]
            missing = [item for item in current.members.values() if not self._take(item)]
            if missing:
                unbuilt.append(missing[0])
                continue
            opened = {
                name: Checkpoint.open(self._place(item), name)
                for name, item in current.members.items()
            }
            if current is recipe:
                return opened
            self._build(current, opened, threads)
            unbuilt.pop()

    def close(self) -> None:
        """Let go of all members, and remove the folder if it is temporary."""
        self._release(())
        if self._temporary:
            self._temporary.close()

    def _place(self, recipe: Recipe) -> Path:
        return self.folder / recipe.digest[:16]

    def _build(
        self, recipe: Recipe, members: Mapping[str, Checkpoint], threads: int | None
    ) -> None:
        self._make_room(recipe)
        try:
            write_model(
                recipe,
                {**self.parents, **members},
                self._place(recipe),
                memory=resident_bytes() + LEAST_MEMORY + _MEMORY,
                patches=self._patches,
                threads=threads,
            )
        except CheckpointError:
            if not self._place(recipe).is_dir():  # else another process has built it meanwhile
                raise

    def _make_room(self, recipe: Recipe) -> None:
        """Remove members that no process uses until a model has room, the least recent first."""
        size = self.parents[recipe.host].nbytes
        room = KEPT * size if self._room is None else self._room
        for rest in self.folder.glob(".*.removed-*"):  # of a process that was killed
            shutil.rmtree(rest, ignore_errors=True)
        there = sorted(self.folder.glob("[!.]*"), key=_used)
        taken = sum(map(_size, there))
        for place in there:
            if taken + size <= room:
                return
            freed = _size(place)
            if _remove(place):
                taken -= freed

    def _take(self, recipe: Recipe) -> bool:
        """Lock a member for reading; return whether it is there."""
        if recipe.digest in self._locks:
            return True
        place = self._place(recipe)
        lock = _lock(place, fcntl.LOCK_SH)  # a process that removes it holds it for a moment
        if lock is None:
            return False
        os.utime(place)
        self._locks[recipe.digest] = lock
        return True

    def _release(self, needed: Iterable[str]) -> None:
        """Release the locks of all members but the needed ones."""
        for digest in self._locks.keys() - set(needed):
            os.close(self._locks.pop(digest))


def _lock(place: Path, kind: int) -> int | None:
    """Return the descriptor of a lock on a member; None if it is not there, or in use."""
    try:
        descriptor = os.open(place / "config.json", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, kind)
    except OSError:
        os.close(descriptor)
        return None
    if not place.is_dir():  # it was removed between opening and locking
        os.close(descriptor)
        return None
    return descriptor


def _remove(place: Path) -> bool:
    """Remove a member that no process uses, and return whether that was so."""
    lock = _lock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if lock is None:
        return False
    try:
        # Under another name first, so that no process finds a part of it.
        gone = place.with_name(f".{place.name}.removed-{os.getpid()}")
        with suppress(OSError):
            place.rename(gone)
            shutil.rmtree(gone)
    finally:
        os.close(lock)
    return True


def _used(place: Path) -> float:
    try:
        return place.stat().st_mtime
    except OSError:  # another process has removed it
        return 0.0


def _size(place: Path) -> int:
    total = 0
    for file in place.glob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
