"""The program `evomerge`: runs a command, and turns errors into one sentence and an exit code."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from evomerge.errors import NO_ROOM, DiskError, EvomergeError, InputError, Terminated, one_line

INTERRUPTED, TERMINATED = 130, 143

_received: list[int] = []
"""SIGTERMs so far. Typer does not pass on whether a KeyboardInterrupt was a `Terminated`."""


def main() -> None:
    """Run the command in `sys.argv` and exit.

    Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated.
    """
    from evomerge.execute.allocator import keep_freed_memory

    keep_freed_memory()
    _keep_warnings_plain()
    debug = "--debug" in sys.argv[1:]
    if debug:
        show_log()
    arguments = [item for item in sys.argv[1:] if item != "--debug"]
    # Whoever started the process with SIGTERM ignored does not want the signal to end it.
    if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:
        signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(run(arguments))
    except KeyboardInterrupt:  # before or after the command itself ran
        sys.exit(interrupted())
    except BrokenPipeError:
        # Nobody reads the output any more, as in `evomerge results RUN | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except SystemExit:
        raise
    except BaseException as error:  # a panic of a library in Rust is no Exception
        if debug:
            raise
        if isinstance(error, EvomergeError):
            show_error(error)
            sys.exit(error.exit_code)
        print(
            f"evomerge: {type(error).__name__}: {one_line(error)} (--debug shows the traceback)",
            file=sys.stderr,
        )
        sys.exit(1)


def show_error(error: EvomergeError) -> None:
    """Print an error: in a pipe one line, on a terminal in lines that divide no word or path."""
    from evomerge.cli.terminal import say

    for sentence in str(error).splitlines():
        say(f"evomerge: {sentence}")


def show_log() -> None:
    """Print the log messages of evomerge, which have the tracebacks of failed candidates."""
    import logging

    from rich.logging import RichHandler

    from evomerge.cli.terminal import err
    from evomerge.run.folder import PlainFormatter

    logger = logging.getLogger("evomerge")
    # A display that is redrawn on this console stays below the messages.
    handler = RichHandler(console=err, show_time=False, show_path=False)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _keep_warnings_plain() -> None:
    """Let the handler that prints warnings where no other is set print them without controls."""
    import logging

    from evomerge.run.folder import PlainFormatter

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PlainFormatter())


def terminate(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM by a `Terminated`: end in order. A second SIGTERM ends it at once."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _received.append(number)
    raise Terminated


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; EvomergeError: a person can understand why not."""
    from typer import Abort
    from typer.main import get_command

    from evomerge.cli.commands import app

    try:
        result = get_command(app).main(arguments, prog_name="evomerge", standalone_mode=False)
    except (KeyboardInterrupt, Abort):
        return interrupted()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise full_disk(error) from error
        # Typer's usage errors have a method that prints them, and an exit code.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if isinstance(error, EvomergeError) or show is None or code is None:
            raise
        sentence = usage_sentence(error, arguments)
        if sentence is None:
            show()
        else:
            show_error(InputError(sentence))
        return int(code)
    # Some versions of Typer return 130 after a KeyboardInterrupt, others raise Abort.
    return interrupted() if result == INTERRUPTED else result if isinstance(result, int) else 0


def full_disk(error: OSError) -> DiskError:
    """Return the error for a disk, a quota or a file that is full."""
    where = f": {error.filename}" if error.filename else ""
    return DiskError(
        f"There is no room for what this command writes ({error.strerror}{where}); free space on "
        "the disk, then give the command again, or `evomerge resume RUN` if the search has begun."
    )


def usage_sentence(error: Any, arguments: Sequence[str]) -> str | None:
    """Return a usage error of Typer as a sentence; None if it is a whole help page."""
    from pydantic import ValidationError

    from evomerge.config.messages import expectation

    format_message, context = getattr(error, "format_message", None), getattr(error, "ctx", None)
    if format_message is None:
        return None
    cause = error.__cause__  # newer versions of Typer read numbers and choices by pydantic
    if isinstance(cause, ValidationError) and (first := cause.errors()[0])["type"] != "value_error":
        return f"{error.param.opts[0]} is {first['input']}; it {expectation(first)}."
    said = " ".join(str(format_message()).split()).replace("Value error, ", "")
    if said.startswith("Usage:"):
        return None
    if "Did you mean" in said:
        return said
    if "unexpected extra argument" in said and "--set" in arguments:  # `--set x=[a, b]` is two
        return f"{said.rstrip('.')}; put quotes around what follows --set, as in --set 'x=[a, b]'."
    if said.endswith("is not readable."):
        return f"{said.rstrip('.')}; give one that you may read."
    command = context.command_path if context else f"evomerge {arguments[0]}"
    return f"{said.rstrip('.')}; `{command} --help` says what is allowed."


def interrupted() -> int:
    """Print which signal ended the command, and return the exit code for it."""
    print(f"evomerge: {'terminated' if _received else 'interrupted'}", file=sys.stderr)
    return TERMINATED if _received else INTERRUPTED


if __name__ == "__main__":
    main()
