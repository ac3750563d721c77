"""Entry point: runs the command line and turns errors into one sentence and an exit code."""

from __future__ import annotations

import os
import sys

from evomerge.errors import EvomergeError

INTERRUPTED = 130


def main() -> None:
    """Run `evomerge`; exit 0 done, 1 failed, 2 bad input, 130 interrupted."""
    debug = "--debug" in sys.argv[1:]
    arguments = [item for item in sys.argv[1:] if item != "--debug"]
    try:
        sys.exit(run(arguments))
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


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors meant for a person are raised."""
    from typer import Abort
    from typer.main import get_command

    from evomerge.cli.commands import app

    try:
        result = get_command(app).main(arguments, prog_name="evomerge", standalone_mode=False)
    except (KeyboardInterrupt, Abort):
        print("evomerge: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        # Usage errors of the command line parser print themselves and know their exit code.
        show, code = getattr(error, "show", None), getattr(error, "exit_code", None)
        if isinstance(error, EvomergeError) or show is None or code is None:
            raise
        show()
        return int(code)
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
