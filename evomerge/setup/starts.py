"""Warm starts: genomes of earlier runs and of recipes, which a search tries first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evomerge.config.schema import Frozen, SearchConfig
from evomerge.errors import ConfigError, InputError
from evomerge.models.references import RUN, is_file, is_folder, place
from evomerge.parsing.texts import read_text
from evomerge.recipe import MODALITIES, Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.searching.ranking import FINALISTS, ranking_of
from evomerge.space.protocol import Gene, Genome, Space


def find_starts(config: SearchConfig, space: Space, relative_to: Path) -> tuple[Genome, ...]:
    """Return the genomes that `optimizer.start` names, each once.

    A run gives its `FINALISTS` best candidates; of a front, as many that are far apart.

    Raises:
        ConfigError: a run or a recipe is missing or damaged, or this space has no genome for it.
    """
    found: dict[Genome, None] = {}
    for reference in config.optimizer.starts:
        paths = [place(reference.removeprefix(RUN), at) for at in (relative_to, Path.cwd())]
        path = next((path for path in paths if is_file(path) or is_folder(path)), paths[0])
        try:
            if reference.startswith(RUN):
                genomes = _of_run(RunFolder(path), space.genes)
            else:
                genomes = [_of_recipe(Recipe.from_yaml(read_text(path, ConfigError)), space)]
        except InputError as error:
            raise ConfigError(f"optimizer.start has {reference!r}: {error}") from error
        found |= dict.fromkeys(genomes)
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
            "`space`, or a recipe."
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


def _of_recipe(recipe: Recipe, space: Space) -> Genome:
    """Return the genome that decodes to a recipe, or raise ConfigError.

    Numbers of a genome stand in its recipe as they are. So each gene is changed to see where its
    value appears, and the value there is taken from the recipe. The result is checked, since in
    some spaces (paths through the layers) recipes are made in other ways.
    """
    wanted = dict(_leaves(recipe.to_dict()))
    genome = tuple(float(int(g.start)) if g.choices else g.start for g in space.genes)
    for choices in (True, False):  # choices decide which of the other genes have an effect
        before, values = dict(_leaves(space.decode(genome).to_dict())), list(genome)
        for number, gene in enumerate(space.genes):
            if bool(gene.choices) is not choices:
                continue
            other = gene.high if genome[number] < gene.high else gene.low
            changed = space.decode((*genome[:number], other, *genome[number + 1 :])).to_dict()
            shown: Any = gene.choices[int(other)] if choices else other
            for path, leaf in _leaves(changed):
                if leaf == shown and before.get(path) != leaf and path in wanted:
                    values[number] = _gene_value(gene, wanted[path])
                    break
        genome = tuple(values)
    found = space.decode(genome)
    parts = ("embeddings", "layers", "head", *MODALITIES)
    if any(getattr(found, part) != getattr(recipe, part) for part in parts):
        raise ConfigError(
            "this space has no genome for this recipe (other parents, method, groups or ranges, or "
            "a path through the layers); start from the run that found it (`run:DIR`)."
        )
    return genome


def _gene_value(gene: Gene, leaf: Any) -> float:
    """Return the value of a gene that stands in a recipe as this number or label, or any value."""
    if gene.choices:
        return float(gene.choices.index(leaf)) if leaf in gene.choices else gene.low
    return min(gene.high, max(gene.low, leaf)) if isinstance(leaf, float) else gene.low


def _leaves(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the place and value of every number and text in lists and mappings."""
    if isinstance(data, dict | list):
        for key, item in data.items() if isinstance(data, dict) else enumerate(data):
            yield from _leaves(item, (*path, key))
    else:
        yield path, data
