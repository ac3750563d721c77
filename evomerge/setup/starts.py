"""Warm starts: genomes of earlier runs, which a search tries first."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from evomerge.config.schema import Frozen, SearchConfig
from evomerge.errors import ConfigError, InputError
from evomerge.models.references import RUN, is_folder, place
from evomerge.parsing.values import shown
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.searching.ranking import FINALISTS, ranking_of
from evomerge.space.protocol import Gene, Genome, Space


def find_starts(config: SearchConfig, space: Space, relative_to: Path) -> tuple[Genome, ...]:
    """Return the genomes that `optimizer.start` names, each once.

    A run gives its `FINALISTS` best candidates; of a front, as many that are far apart.

    Raises:
        ConfigError: a run is missing or damaged, or has other genes.
    """
    found: dict[Genome, None] = {}
    for reference in config.optimizer.start:
        if not reference.startswith(RUN):
            raise ConfigError(
                f"optimizer.start has {shown(reference)}, which is no run; name the run that found "
                "it, as `run:DIR`."
            )
        paths = [place(reference.removeprefix(RUN), at) for at in (relative_to, Path.cwd())]
        path = next(filter(is_folder, paths), paths[0])
        try:
            found |= dict.fromkeys(_of_run(RunFolder(path), space.genes))
        except InputError as error:
            raise ConfigError(f"optimizer.start has {reference!r}: {error}") from error
    return tuple(found)


def _of_run(run: RunFolder, genes: Sequence[Gene]) -> list[Genome]:
    """Return the genomes of a run's best candidates; genes are matched by name."""
    config = run.search_file()
    frozen = config.frozen or Frozen()
    names = {gene.name for gene in genes}
    if different := sorted(names ^ set(frozen.genes)):
        whose = "this search" if different[0] in names else "that run"
        raise ConfigError(
            f"only {whose} has the gene {different[0]!r}; take a run with the same `parents` and "
            "`space`."
        )
    labels = {name: item.choices for item in frozen.gene_ranges for name in item.genes}
    candidates = History(run.events()).candidates
    searched = [item for item in candidates if item.label is None and "genome" in item.origin]
    genomes = []
    for item in ranking_of(config).finalists(searched, FINALISTS):
        values = dict(zip(frozen.genes, map(float, item.origin["genome"]), strict=True))
        genome = [_value(gene, values[gene.name], labels.get(gene.name, ())) for gene in genes]
        genomes += [tuple(value for value in genome if value is not None)]
    if not (usable := [genome for genome in genomes if len(genome) == len(genes)]):
        raise ConfigError(
            "that run has no scored candidate in the ranges of this search; widen the ranges, or "
            "remove it."
        )
    return usable


def _value(gene: Gene, value: float, labels: Sequence[str]) -> float | None:
    """Return the value that a gene has here, given its value in a run; None if it has none."""
    if gene.kind == "choice":
        label = labels[int(value)] if int(value) < len(labels) else None
        return float(gene.choices.index(label)) if label in gene.choices else None
    return value if gene.low <= value <= gene.high else None
