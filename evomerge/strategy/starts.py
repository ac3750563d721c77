"""Warm starts: the best genomes of earlier runs."""

from collections.abc import Sequence
from pathlib import Path

from evomerge.errors import ConfigError
from evomerge.models.references import RUN, is_folder, place
from evomerge.parsing.values import shown
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.space.protocol import Gene, Genome


def open_run(reference: str, folder: Path) -> RunFolder:
    """Return the run that an entry of `optimizer.start` names.

    `folder`: where relative paths start from. InputError: the entry names no run.
    """
    if not reference.startswith(RUN):
        raise ConfigError(f"{shown(reference)} is no run; name one as `run:DIR`.")
    paths = [place(reference.removeprefix(RUN), start) for start in (folder, Path.cwd())]
    return RunFolder(next(filter(is_folder, paths), paths[0]))


def best_genomes(run: RunFolder, genes: Sequence[Gene]) -> list[Genome]:
    """Return the genomes of a run's `FINALISTS` best candidates; genes are matched by name.

    Of a front they are candidates that are far apart. ConfigError: the run has other genes.
    """
    from evomerge.run.ranking import FINALISTS, ranking_of  # they import numpy

    record, names = run.record(), {gene.name for gene in genes}
    if different := sorted(names ^ set(record.genes)):
        whose = "this search" if different[0] in names else "that run"
        raise ConfigError(
            f"only {whose} has the gene {different[0]!r}; take one with equal `parents`, `space`."
        )
    labels = {name: alike.choices for alike in record.gene_ranges for name in alike.genes}
    for gene in genes:
        if list(gene.choices) != (choices := labels.get(gene.name, [])):
            what = f"chooses among {', '.join(choices)}" if choices else "is a number"
            raise ConfigError(f"its gene {gene.name!r} {what}; name the same, in the same order.")
    candidates = History(run.events()).candidates
    searched = [each for each in candidates if each.label is None and "genome" in each.origin]
    genomes: list[Genome] = []
    for candidate in ranking_of(record).finalists(searched, FINALISTS):
        values = dict(zip(record.genes, map(float, candidate.origin["genome"]), strict=True))
        if all(gene.low <= values[gene.name] <= gene.high for gene in genes):
            genomes.append(tuple(values[gene.name] for gene in genes))
    if not genomes:
        raise ConfigError("it has no scored candidate in the ranges of this search; widen them.")
    return genomes
