"""The command `sweep`: many searches by one command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import terminal
from evomerge.cli.options import (
    AllowBenchmarksOption,
    AllowCodeOption,
    CandidatesOption,
    JsonOption,
    TrustCodeOption,
)
from evomerge.errors import SearchError
from evomerge.trust.consent import Permissions

if TYPE_CHECKING:
    from evomerge.setup.checked import CheckedSearch


def sweep(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="search files (YAML)")],
    runs: Annotated[Path, typer.Option("--runs", metavar="DIR", help="folder for the runs")],
    seeds: Annotated[str, typer.Option(help="e.g. 0..4 (both included), or 0,1,7")] = "0",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE,...",
            help="override a key; with several values, each of them is searched",
        ),
    ] = None,
    candidates: CandidatesOption = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="write one page that compares the runs")
    ] = None,
    allow_benchmarks: AllowBenchmarksOption = False,
    allow_code: AllowCodeOption = False,
    trust_code: TrustCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run many searches, seed by seed; call it again after a kill, and it goes on."""
    from evomerge.api.search import with_bar
    from evomerge.api.sweep import parse_seeds, parse_values, plan, run_sweep
    from evomerge.run.atomic import check_output
    from evomerge.setup.preflight import warnings

    if html is not None:
        check_output(html, "--html")
    values = parse_values(set_ or [])
    searches = plan(files, runs, parse_seeds(seeds), values, candidates=candidates)

    def warn(checked: CheckedSearch) -> None:
        terminal.warn(warnings(checked, allow_benchmarks))

    allowed = Permissions(allow_code, trust_code)
    runner = with_bar(terminal.err.is_terminal, ())
    table = run_sweep(searches, allowed, runner, warn, terminal.say)
    if html is not None:
        from evomerge.report.sweep_page import write_sweep

        write_sweep(table, html)
        terminal.say(f"wrote {html}")
    if as_json:
        terminal.print_json(table.to_dict())
    else:
        terminal.print_table(*table.rows(), title="means over seeds, with 95 % intervals")
        for item in table.differences:
            terminal.say(item.text)
    if table.failed:
        names = ", ".join(item.folder.name for item in table.failed)
        raise SearchError(
            f"{len(table.failed)} of {len(searches)} searches failed: {names}; correct what their "
            "messages say, then give the command again."
        )
