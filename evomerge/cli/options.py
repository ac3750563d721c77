"""Arguments and options that several commands share, what Tab offers, and consent to run code."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from evomerge.setup.checked import Permissions


def offered(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """Return what a shell calls for Tab: what was typed -> the names that begin with it.

    The names are looked up then only, so that a command does not wait for their imports.
    """

    def complete(incomplete: str) -> list[str]:
        return [name for name in names() if name.startswith(incomplete)]

    return complete


def _trackers() -> Iterable[str]:
    from evomerge.report.trackers.protocol import TRACKERS

    return TRACKERS.names()


RunFolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="folder of a run")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="search file (YAML)")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
CandidatesOption = Annotated[
    int | None, typer.Option(min=1, help="largest number of candidates, over all sessions")
]
OutOption = Annotated[Path, typer.Option("--out", help="new folder for the model")]
ShardSizeOption = Annotated[str, typer.Option(help="largest size of a weight file, e.g. 5GB")]
AllowBenchmarksOption = Annotated[
    bool, typer.Option(help="no warning when the search optimizes on a well-known benchmark")
]
AllowPickleOption = Annotated[
    bool, typer.Option(help="accept parents with pickled weights (read with weights_only)")
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(help="run code that models write, in processes with limits (HumanEval, MBPP)"),
]
TrustCodeOption = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="run the code that the search file names, and remember these files"
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="override a key of the search file"),
]
TrackOption = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="log the search to a tracker: trackio or wandb",
        autocompletion=offered(_trackers),
    ),
]


def permissions(allow_pickle: bool, allow_code: bool, trust_code: bool) -> Permissions:
    """Return what the options of a command allow; a person at the terminal is asked for more."""
    from evomerge.setup.checked import Permissions
    from evomerge.trust.consent import Consent

    at_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    consent = Consent(given=trust_code, ask=_ask if at_terminal else None, told=_tell)
    return Permissions(allow_pickle=allow_pickle, allow_code=allow_code, consent=consent)


def _tell(files: Sequence[Path]) -> None:
    from evomerge.cli.terminal import say

    for file in files:
        say(f"from now on this code may run: {file}")


def _ask(files: Sequence[Path]) -> bool:
    from evomerge.cli.terminal import paused, say

    with paused():
        say("this search runs code that you have not allowed on this machine:")
        for file in files:
            say(f"  {file}")
        return typer.confirm("Have you read it, and may it run?", err=True)
