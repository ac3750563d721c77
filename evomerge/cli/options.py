"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli import completion

RunFolderArgument = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="folder of a run", autocompletion=completion.run_folders),
]
FileArgument = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="search file (YAML)", autocompletion=completion.search_files
    ),
]
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
        autocompletion=completion.trackers,
    ),
]
