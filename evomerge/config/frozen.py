"""What a run keeps in `manifest.json` beside `config`, the search file with all defaults."""

# ruff: noqa: RUF012 - pydantic copies defaults

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from evomerge.config.fields import Section

Documents: TypeAlias = Mapping[str, tuple[int, ...]]
"""Task -> ids of its documents in one split."""


class GeneRange(Section):
    """The values that some genes of a search can take; see `evomerge.space.protocol.Gene`."""

    genes: list[str]
    kind: Literal["real", "integer", "choice", "binary"]
    low: float
    high: float
    choices: list[str] = []


class HubDataset(Section):
    """The data set on the Hub that the documents of a task come from."""

    id: str
    config: str | None = None
    split: str | None = None


class Frozen(Section):
    """What was resolved when a run began, so that it goes on as it began.

    Attributes:
        folder: where relative paths in the search file start from.
        linear_algebra: package -> the BLAS and LAPACK that it computed with; empty in a run of an
            older version.
        instructions: the environment variables that choose instructions, with their values; None in
            a run of an older version.
        parents: parent -> fingerprint.
        unlike_merges: parents that differ from the merges beside their weights: on validation and
            test documents they are scored as themselves.
        documents: split -> task -> document ids, of the task and split in `sources`.
        tasks: split -> task -> digest of its documents, prompts and settings (of a run of an older
            version: a digest of each).
        datasets: split -> task -> its data set; only those that are on the Hub.
        lower_is_better: objectives (`task/metric`) that are minimised.
        sees: whether a task shows images.
        sampled: task that samples its texts -> number of texts for each document.
        fewer_documents: on which documents a candidate is scored, and why, in words.
        genes: their names, in the order of a genome.
        start: genomes of `optimizer.start`.
        allow_code, trust_code: what the user allowed then, for a reader only: it allows nothing.
    """

    folder: str = ""
    versions: dict[str, str] = {}
    processor: str = ""
    linear_algebra: dict[str, str] = {}
    instructions: dict[str, str] | None = None
    parents: dict[str, str] = {}
    unlike_merges: list[str] = []
    documents: dict[str, dict[str, list[Annotated[int, Field(ge=0)]]]] = {}
    sources: dict[str, dict[str, str]] = {}
    tasks: dict[str, dict[str, str | dict[str, str]]] = {}
    datasets: dict[str, dict[str, HubDataset]] = {}
    lower_is_better: list[str] = []
    sees: bool = False
    sampled: dict[str, int] = {}
    fewer_documents: str = ""
    genes: list[str] = []
    gene_ranges: list[GeneRange] = []
    start: list[list[float]] = []
    allow_code: bool = False
    trust_code: bool = False
