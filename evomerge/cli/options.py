"""Arguments and options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

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
        help="let tasks run what models write, in processes with limits (HumanEval, minerva_math)",
    ),
]
TrustCodeOption = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="run code that the search file names and that is not installed"
    ),
]
# Commands that load tasks and run no model take what `search` takes, without a word of it.
HiddenBenchmarksOption = Annotated[bool, typer.Option("--allow-benchmarks", hidden=True)]
HiddenCodeOption = Annotated[bool, typer.Option("--allow-code", hidden=True)]
HiddenTrustOption = Annotated[bool, typer.Option("--trust-code", hidden=True)]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="override a key of the search file"),
]
TrackOption = Annotated[Tracker | None, typer.Option("--track", help="log the search to a tracker")]
ParentsOption = Annotated[
    list[str] | None,
    typer.Option("--parents", metavar="A B ...", help="folders, Hub ids, zoo:NAME, MODEL+ADAPTER"),
]


class TakesParents(TyperCommand):
    """A command whose `--parents` takes all words up to the next option or search file."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Repeat the option before each of its words, as Typer reads them."""
        words, takes = list[str](), False
        for word in args:
            if word.startswith("-") or word.endswith((".yaml", ".yml")):
                takes = word == "--parents"
                words += [] if takes else [word]
            else:
                words += ["--parents", word] if takes else [word]
        if "--parents" in args and "--parents" not in words:
            words.append("--parents")  # without words, which is a mistake
        return super().parse_args(ctx, words)
