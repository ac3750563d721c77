"""Entry point: runs the command line and turns errors into one sentence and an exit code."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from evomerge.errors import EvomergeError, Terminated

INTERRUPTED, TERMINATED = 130, 143

_received: list[int] = []
"""Signals that asked the process to end; the parser does not pass on which exception it was."""


def main() -> None:
    """Run `evomerge`; exit 0 done, 1 failed, 2 bad input, 130 interrupted, 143 terminated."""
    debug = "--debug" in sys.argv[1:]
    arguments = [item for item in sys.argv[1:] if item != "--debug"]
    if signal.getsignal(signal.SIGTERM) != signal.SIG_IGN:  # of one who does not want it to end
        signal.signal(signal.SIGTERM, terminate)
    try:
        sys.exit(run(arguments))
    except KeyboardInterrupt:  # before the command had begun, or after it
        sys.exit(interrupted())
    except BrokenPipeError:
        # The reader went away (`evomerge results RUN | head`); nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        lines = str(error).strip().splitlines() or ["no message"]
        if isinstance(error, EvomergeError):
            print(f"evomerge: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        print(
            f"evomerge: {type(error).__name__}: {lines[0]} (--debug shows the traceback)",
            file=sys.stderr,
        )
        sys.exit(1)


def terminate(number: int, frame: FrameType | None) -> None:
    """End the process in order; should that take too long, the next SIGTERM ends it at once.

    Raises:
        Terminated: always.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _received.append(number)
    raise Terminated


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors meant for a person are raised."""
    from typer import Abort
    from typer.main import get_command

    from evomerge.cli.commands import app

    try:
        result = get_command(app).main(arguments, prog_name="evomerge", standalone_mode=False)
    except (KeyboardInterrupt, Abort):
        return interrupted()
    except Exception as error:
        # Usage errors of the command line parser print themselves and know their exit code.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if isinstance(error, EvomergeError) or show is None or code is None:
            raise
        show()
        return int(code)
    # Some versions of the parser make an exit code of KeyboardInterrupt, others an Abort.
    return interrupted() if result == INTERRUPTED else result if isinstance(result, int) else 0


def interrupted() -> int:
    """Say by which signal the command was ended, and return the exit code for it."""
    print(f"evomerge: {'terminated' if _received else 'interrupted'}", file=sys.stderr)
    return TERMINATED if _received else INTERRUPTED


if __name__ == "__main__":
    main()
