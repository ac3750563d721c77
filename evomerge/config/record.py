"""The record of a run: its problem, as it was resolved when the run began."""

# ruff: noqa: RUF012 - pydantic copies defaults

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from evomerge.config.fields import Section
from evomerge.config.messages import parsed
from evomerge.config.schema import SearchConfig, parse
from evomerge.scores import SPLITS, Constraint, Documents, Objective, Split


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


class Record(Section):
    """What is in `manifest.json`; a run of an older version may lack some of it.

    Attributes:
        config: the search file with all defaults, absolute paths, and values in place of `auto`.
        folder: where relative paths in the search file start from.
        linear_algebra: package -> the BLAS and LAPACK that it computed with.
        instructions: the environment variables that choose instructions, with their values; None in
            a run of an older version.
        parents: parent -> fingerprint.
        unlike_merges: parents that differ from the merges in more than weights: on validation and
            test documents they are scored as themselves.
        in_fp8: parents whose matrices are stored in FP8; they are scored and merged as bfloat16.
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

    config: SearchConfig
    folder: str = ""
    versions: dict[str, str] = {}
    processor: str = ""
    linear_algebra: dict[str, str] = {}
    instructions: dict[str, str] | None = None
    parents: dict[str, str] = {}
    unlike_merges: list[str] = []
    in_fp8: list[str] = []
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

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives, with their directions."""
        return tuple(
            each.resolved(each.metric, f"{each.source}/{each.metric}" not in self.lower_is_better)
            for each in self.config.objectives
        )

    @property
    def also(self) -> tuple[Objective, ...]:
        """What is scored on test documents besides the objectives."""
        return tuple(
            Objective(
                each.source,
                each.metric,
                higher_is_better=f"{each.source}/{each.metric}" not in self.lower_is_better,
            )
            for each in self.config.evaluation.also
        )

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The constraints."""
        return tuple(
            Constraint(bound.source, bound.metric, bound.at_least, bound.at_most)
            for bound in self.config.constraints
        )

    @property
    def splits(self) -> Mapping[Split, Documents]:
        """The document ids, by split and task."""
        return {
            split: {task: tuple(ids) for task, ids in self.documents.get(split, {}).items()}
            for split in SPLITS
        }

    def to_json(self) -> dict[str, Any]:
        """Return the content of `manifest.json`."""
        return self.model_dump(mode="json")

    @property
    def starts(self) -> tuple[tuple[float, ...], ...]:
        """The genomes of `optimizer.start`."""
        return tuple(map(tuple, self.start))


def parse_record(data: Mapping[str, Any], source: str) -> Record:
    """Return the record with this content; ConfigError: as for `parse`; `source` names it."""
    return parsed(Record, {**data, "config": parse(data["config"], source)}, source)
