"""The limits of one process that handles the answers of one document.

The kernel of the system decides how far they go: `Protection` says what it allows.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evomerge.evaluation.sandbox import kernel

MEMORY = 2 << 30
"""Bytes of address space that a process may take, beside what its libraries have taken."""

FILE_SIZE = 64 << 20
"""Largest size of a file in bytes."""

OPEN_FILES, PROCESSES = 256, 64

_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib64",
    "/etc",
    "/opt",
    "/nix",
    "/proc",
    "/dev/urandom",
)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random")


@dataclass(frozen=True)
class Protection:
    """What the system of this machine lets a process without rights forbid itself.

    Attributes:
        namespaces: whether it can have a network and processes of its own.
        landlock: the version of Landlock, which forbids files and, from version 4, TCP; 0: none.
    """

    namespaces: bool
    landlock: int

    @property
    def gaps(self) -> list[str]:
        """What code can do here that it cannot do where everything is available, in words."""
        found = []
        if not self.namespaces and self.landlock < 4:
            found.append("use the network")
        if not self.namespaces and self.landlock < 6:
            found.append("end your other processes")
        if not self.namespaces:
            found.append("start any number of processes")
        if not self.landlock:
            found.append("read and change your files")
        return found


def confine(folder: Path, seconds: int, protection: Protection, kept: int) -> None:
    """Confine this process and all that it starts, for good.

    Args:
        folder: the only folder in which it can write; becomes the working folder.
        seconds: CPU time that each process may take.
        protection: what this system allows.
        kept: the only file descriptor that stays open, beside 0 to 2, which lead nowhere.
    """
    os.chdir(folder)
    os.environ.update(HOME=str(folder), TMPDIR=str(folder))
    tempfile.tempdir = str(folder)
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    close_files(kept)
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_CORE: 0,
    }
    if kernel.has_kernel():
        limits[resource.RLIMIT_AS] = _address_space() + MEMORY
    if protection.namespaces:  # elsewhere a person's other processes would be counted too
        limits[resource.RLIMIT_NPROC] = PROCESSES
    for name, limit in limits.items():
        _limit(name, limit)
    if protection.landlock:
        readable = [*_SYSTEM, sys.prefix, sys.base_prefix, *_imported_from(sys.path)]
        if not kernel.restrict_files(readable, [str(folder), *_DEVICES]):
            raise OSError  # it has worked before; without it nothing may run
    if protection.namespaces:
        kernel.drop_rights()


def close_files(kept: int) -> None:
    """Close all open files but 0 to 2 and this one."""
    highest = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    os.closerange(3, kept)
    os.closerange(kept + 1, min(highest, 1 << 16))


def limit_cpu(seconds: int) -> None:
    """Let the kernel end this process after so many seconds of CPU time."""
    _limit(resource.RLIMIT_CPU, seconds)


def _limit(name: int, wanted: int) -> None:
    hard = resource.getrlimit(name)[1]
    value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(name, (value, value))


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _imported_from(path: Sequence[str]) -> list[str]:
    """Return the folders and archives that modules are imported from."""
    return [place for place in path if place]
