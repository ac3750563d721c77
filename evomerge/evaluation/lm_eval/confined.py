"""Running a function in a process with limits, with an end to all that it starts.

A watcher is forked, which forks the process that calls the function. The watcher ends it after a
time, or if it and its descendants take too much memory or become too many, and it ends what
outlives it. On Linux the watcher adopts descendants whose parent has ended, so none is missed.
Where the kernel allows it, the function also gets namespaces of its own: it cannot see, signal or
read processes outside, so tokens in their environments are hidden, and the kernel ends its
descendants. The limits stop accidents, and namespaces hide processes, not files.
"""

import ctypes
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

if sys.platform != "win32":  # where `needs_posix` refuses tasks that need this module
    import resource

_MEMORY = 2 << 30  # bytes of address space of a process, besides what libraries have taken
_MEMORY_TOGETHER = 4 << 30  # bytes of memory of all processes
_PROCESSES = 256
_FILE_SIZE = 64 << 20
_POLL = 0.005  # seconds between two looks at whether a process has ended
_LOOK = 0.05  # seconds between looks at the memory
_SHARE = 10  # times that one look takes pass at least before the next

_IS_LINUX = sys.platform == "linux"
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NEW_MOUNTS, _NEW_USERS, _NEW_PROCESSES = 0x20000, 0x10000000, 0x20000000
_NAMESPACES = (_NEW_USERS | _NEW_PROCESSES | _NEW_MOUNTS, _NEW_USERS)


def run_watched(function: Callable[[], object], folder: Path, seconds: int, keep: int) -> int:
    """Begin to call a function in a process that is limited and watched; return the watcher's id.

    The watcher exits with 0 once the process and all of its descendants have ended.

    Args:
        function: called once; what it raises is lost, so it writes its result into a file.
        folder: where the process works and keeps its temporary files.
        seconds: the wall time, and the CPU time of each process.
        keep: the descriptor that stays open there, besides the standard ones.
    """
    parent, flags = os.getpid(), namespaces()
    if watcher := os.fork():
        return watcher
    try:
        adopt_orphans()
        _end_with(parent)
        size = psutil.Process().memory_info().vms + _MEMORY
        _watch(_fork(flags, lambda: _limited(function, folder, seconds, size, keep)), seconds + 1)
        end_children()
        os._exit(0)
    finally:
        os._exit(1)


def adopt_orphans() -> None:
    """Make this process the parent of its descendants whose parent ends (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def end_children() -> None:
    """Kill all children of this process, and those that it adopts, until there is none."""
    while True:
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        _kill(psutil.Process().children(recursive=True))  # one may fork before its turn
        time.sleep(_POLL)


@cache
def namespaces() -> int:
    """Return the flags of the namespaces that this process may create, 0 if none.

    Containers often forbid them; also a `/proc` that is masked in part cannot be mounted again, but
    users of its own suffice to hide the environments of other processes.
    """
    for flags in _NAMESPACES if _IS_LINUX else ():
        if not (prober := os.fork()):
            try:
                inner = _fork(flags, lambda: None)
                os._exit(os.waitstatus_to_exitcode(os.waitpid(inner, 0)[1]))
            finally:
                os._exit(1)
        if os.waitpid(prober, 0)[1] == 0:
            return flags
    return 0


def _fork(flags: int, function: Callable[[], object]) -> int:
    """Call a function in a process that is forked into new namespaces; return its id.

    OSError: they cannot be created. In new processes, number 1 ignores most signals, so that it
    only waits for the one that calls the function.
    """
    watcher = os.getpid()
    if flags:
        users, groups = os.geteuid(), os.getegid()
        _call("unshare", flags & ~_NEW_MOUNTS)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{users} {users} 1")
        Path("/proc/self/gid_map").write_text(f"{groups} {groups} 1")
    if process := os.fork():
        return process
    try:
        if flags & _NEW_PROCESSES:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            _call("unshare", _NEW_MOUNTS)  # only here, since the watcher needs the other /proc
            _call("mount", b"proc", b"/proc", b"proc", 0, None)
            if process := os.fork():
                status = os.waitpid(process, 0)[1]
                os._exit(os.waitstatus_to_exitcode(status) & 1)
        else:
            _end_with(watcher)
        function()
        os._exit(0)
    finally:
        os._exit(1)


def _limited(
    function: Callable[[], object], folder: Path, seconds: int, size: int, keep: int
) -> None:
    """Call a function after this process has got its limits, which hold for what it starts."""
    os.setsid()
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    signal.alarm(seconds)
    limits = {
        resource.RLIMIT_AS: size,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: _FILE_SIZE,
        resource.RLIMIT_CORE: 0,
    }
    os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 16)
    for name, limit in limits.items():
        with suppress(ValueError, OSError):  # a lower limit holds already
            resource.setrlimit(name, (limit, limit))
    function()


def _watch(process: int, seconds: float) -> None:
    """Wait for a child of this process; return when it has ended, or has to be ended."""
    deadline = time.monotonic() + seconds
    next_look = time.monotonic() + _LOOK
    while os.waitpid(process, os.WNOHANG)[0] != process:
        now = time.monotonic()
        if now > deadline:
            return
        if now > next_look:
            if _is_too_much(psutil.Process().children(recursive=True)):
                return
            next_look = time.monotonic() + max(_LOOK, _SHARE * (time.monotonic() - now))
        time.sleep(_POLL)


def _is_too_much(processes: list[psutil.Process]) -> bool:
    """Return whether these are too many processes, or take too much memory together."""
    if len(processes) > _PROCESSES:
        return True
    # Pages that forks share count once in the proportional size, which takes longer to read.
    return all(
        sum(_memory(process, key) for process in processes) > _MEMORY_TOGETHER
        for key in ("rss", "pss")
    )


def _memory(process: psutil.Process, key: str) -> int:
    with suppress(psutil.NoSuchProcess):
        with suppress(psutil.AccessDenied):
            if key == "pss" and _IS_LINUX:
                return int(process.memory_full_info().pss)
        return int(process.memory_info().rss)
    return 0


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()


def _end_with(parent: int) -> None:
    """Let the kernel kill this process when its parent, which has one thread, ends (Linux)."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended before
        os._exit(1)


def _prctl(*arguments: int) -> None:
    if _IS_LINUX:
        _call("prctl", *arguments, 0, 0, 0)


def _call(name: str, *arguments: object) -> None:
    """Call a function of the C library; OSError: it fails."""
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments):
        error = ctypes.get_errno()
        raise OSError(error, f"{name}: {os.strerror(error)}")
