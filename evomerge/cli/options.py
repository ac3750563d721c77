"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Tracker = StrEnum("Tracker", ["trackio", "wandb"])
SplitName = StrEnum("SplitName", ["search", "validation", "test"])

RunFolderArgument = Annotated[Path, typer.Argument(metavar="DIR", help="folder of a run")]
FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="search file (YAML)")]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON")]
CandidatesOption = Annotated[
    int | None, typer.Option(min=1, help="largest number of candidates in all, parents among them")
]
OutOption = Annotated[Path, typer.Option("--out", help="new folder for the model")]
ShardSizeOption = Annotated[str, typer.Option(help="largest size of a weight file, e.g. 5GB")]
AllowBenchmarksOption = Annotated[
    bool,
    typer.Option(
        "--allow-benchmarks", help="no warning when the search optimizes on a well-known benchmark"
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
        "--trust-code", help="run code that the search file names and that is not installed"
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="override a key of the search file"),
]
TrackOption = Annotated[Tracker | None, typer.Option("--track", help="log the search to a tracker")]
