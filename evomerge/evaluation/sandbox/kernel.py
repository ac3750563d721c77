"""What Linux offers a process without rights to shut itself in: namespaces and Landlock.

Namespaces (`man 7 namespaces`) take the network, shared memory and other processes out of sight.
Landlock (`man 7 landlock`) forbids access to files outside of a list of folders. A kernel, a
container or a system's policy may refuse either; each function says whether it worked.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_NEW_USER, _NEW_PID, _NEW_NET, _NEW_IPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000

# The numbers of these system calls are the same on all processors.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446

_EXECUTE, _WRITE, _READ, _LIST = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE | _READ | _TRUNCATE | _IOCTL
_RIGHTS_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_TCP = 0b11  # bind, connect; from version 4
_SCOPES = 0b11  # abstract sockets, signals; from version 6

_PDEATHSIG, _NO_NEW_PRIVS, _SUBREAPER = 1, 38, 36
_CAPABILITIES_VERSION = 0x20080522


def has_kernel() -> bool:
    """Return whether this is Linux; elsewhere none of the other functions may be called."""
    return sys.platform == "linux"


def leave_network() -> bool:
    """Give this process, which has a single thread, a network and shared memory of its own.

    The new network is empty: nothing can be reached by it, not even this machine.

    Returns:
        whether it worked. Only then may `leave_processes` be called.
    """
    user, group = os.getuid(), os.getgid()
    if not _unshare(_NEW_USER | _NEW_NET | _NEW_IPC):
        return False
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{user} {user} 1")
    (own / "gid_map").write_text(f"{group} {group} 1")
    return True


def leave_processes() -> bool:
    """Let the next child of this process see no processes but those that it starts.

    When this child ends, the kernel ends all processes that it has started.
    """
    return _unshare(_NEW_PID)


def adopt_orphans() -> None:
    """Let this process be the parent of processes below it whose own parent ends."""
    _prctl(_SUBREAPER, 1)


def end_with_parent() -> None:
    """Let the kernel kill this process when its parent ends."""
    _prctl(_PDEATHSIG, 9)


def children() -> list[int]:
    """Return the ids of this process's children; it has a single thread."""
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    return [int(number) for number in listed.read_text().split()]


def drop_rights() -> None:
    """Give up all rights that this process has in its namespaces, for good."""
    _prctl(_NO_NEW_PRIVS, 1)
    header = struct.pack("=Ii", _CAPABILITIES_VERSION, 0)
    _libc().capset(header, bytes(24))


def landlock_version() -> int:
    """Return the version of Landlock that the kernel offers; 0: it offers none."""
    return max(0, int(_libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def restrict_files(readable: Sequence[str], writable: Sequence[str]) -> bool:
    """Forbid this process all files but these, for good, and also TCP and signals to others.

    TCP is forbidden from Linux 6.7 on, signals to processes outside from Linux 6.12 on.

    Args:
        readable: folders and files that may be read; programs in them may be run.
        writable: folders and files in which everything may be done.
    """
    version = landlock_version()
    if not version:
        return False
    rights = max(value for since, value in _RIGHTS_OF_VERSION.items() if since <= version)
    attributes = struct.pack("=Q", rights)
    attributes += struct.pack("=Q", _TCP) if version >= 4 else b""
    attributes += struct.pack("=Q", _SCOPES) if version >= 6 else b""
    syscall = _libc().syscall
    rules = syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    for place in readable:
        _allow(rules, place, _EXECUTE | _READ | _LIST)
    for place in writable:
        _allow(rules, place, rights)
    _prctl(_NO_NEW_PRIVS, 1)
    done = syscall(_RESTRICT_SELF, rules, 0) == 0
    os.close(rules)
    return bool(done)


def _allow(rules: int, place: str, rights: int) -> None:
    """Add a file or folder to a set of Landlock's rules; one that is not there is passed over."""
    try:
        opened = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    rights &= -1 if Path(place).is_dir() else _OF_FILES
    _libc().syscall(_ADD_RULE, rules, 1, struct.pack("=Qi", rights, opened), 0)
    os.close(opened)


def _unshare(flags: int) -> bool:
    return bool(_libc().unshare(flags) == 0)


def _prctl(option: int, value: int) -> None:
    _libc().prctl(option, ctypes.c_ulong(value), *([ctypes.c_ulong(0)] * 3))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
