"""Arguments and options that several commands share, and consent to run code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import terminal

if TYPE_CHECKING:
    from evomerge.trust.consent import Permissions


Tracker = StrEnum("Tracker", ["trackio", "wandb"])
SplitName = StrEnum("SplitName", ["search", "validation", "test"])

RunFolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="folder of a run")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="search file (YAML)")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
CandidatesOption = Annotated[
    int | None, typer.Option(min=1, help="largest number of candidates in all, parents among them")
]
CompareOption = Annotated[
    bool, typer.Option("--compare", help="compare the parents too; this reads all their weights")
]
OutOption = Annotated[Path, typer.Option("--out", help="new folder for the model")]
ShardSizeOption = Annotated[str, typer.Option(help="largest size of a weight file, e.g. 5GB")]
AllowBenchmarksOption = Annotated[
    bool,
    typer.Option(
        "--allow-benchmarks", help="no warning when the search optimizes on a well-known benchmark"
    ),
]
AllowPickleOption = Annotated[
    bool,
    typer.Option(
        "--allow-pickle", help="accept parents with pickled weights (read with weights_only)"
    ),
]
AllowCodeOption = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="run code that models write, in processes with limits (HumanEval, MBPP)",
    ),
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
TrackOption = Annotated[Tracker | None, typer.Option("--track", help="log the search to a tracker")]


def permissions(allow_pickle: bool, allow_code: bool, trust_code: bool) -> Permissions:
    """Return what the options of a command allow; a person at the terminal is asked for more."""
    from evomerge.trust.consent import Permissions

    ask = _ask if sys.stdin.isatty() and sys.stderr.isatty() else None
    return Permissions(allow_pickle, allow_code, _tell if trust_code else ask)


def _tell(files: Sequence[Path]) -> bool:
    for file in files:
        terminal.say(f"from now on this code may run: {file}")
    return True


def _ask(files: Sequence[Path]) -> bool:
    terminal.say("this search runs code that you have not allowed on this machine:")
    for file in files:
        terminal.say(f"  {file}")
    return typer.confirm("Have you read it, and may it run?", err=True)
