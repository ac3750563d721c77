"""Several runs as one table."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from typing import TYPE_CHECKING

from evomerge.parsing.values import path_of

if TYPE_CHECKING:
    import pandas as pd


def results(runs: Iterable[str | PathLike[str]]) -> pd.DataFrame:
    """Compare runs: a row for each search file, with means over its runs, which have other seeds.

    The index is the name of the folders without the seed. `score` is the mean fitness of the
    winners on test documents, with its 95 % interval (`low`, `high`) over `seeds` runs that have
    ended; `best_parent` and `uniform` are in the same unit: fractions, not per cent. All work of a
    run is in `cpu_seconds`.

    Raises:
        InputError: a folder is no run, or two are the same search with the same seed.
    """
    import pandas as pd

    from evomerge.report.runs import run_rows

    rows = run_rows([path_of(item, "runs") for item in runs])
    return pd.DataFrame(rows).set_index("search") if rows else pd.DataFrame()
