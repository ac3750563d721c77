"""The laws of spaces."""

from collections.abc import Sequence

import numpy as np

from evomerge.recipe import Recipe
from evomerge.space.protocol import Gene, Genome, Space
from evomerge.testing.optimizers import check_range


def check_space(space: Space, samples: int = 100, seed: int = 0) -> None:
    """Check the laws of `evomerge.space.protocol.Space`, and say if all hold."""
    genes = tuple(space.genes)
    assert genes, "The space has no genes."
    assert len({gene.name for gene in genes}) == len(genes), "Two genes have the same name."
    for gene in genes:
        assert gene.low < gene.high, f"Gene {gene.name} has an empty range."
        assert gene.low <= gene.start <= gene.high, f"Gene {gene.name} starts out of its range."
        assert gene.kind != "choice" or len(gene.choices) == gene.high + 1, (
            f"Gene {gene.name} has {len(gene.choices)} choices, but values up to {gene.high:g}."
        )
    random = np.random.RandomState(seed)
    ends = [tuple(gene.low for gene in genes), tuple(gene.high for gene in genes)]
    for genome in [*ends, *(random_genome(genes, random) for _ in range(samples - 2))]:
        recipe = space.decode(genome)
        assert space.decode(genome) == recipe, "One genome was decoded to two different recipes."
        again = Recipe.from_dict(recipe.to_dict())
        assert again == recipe, "Recipe.from_dict(recipe.to_dict()) gives another recipe."
        _check_depth(recipe, space)
    baselines = space.baselines()
    for label, recipe in baselines.items():
        assert isinstance(recipe, Recipe), f"Baseline {label} is not a Recipe."
        _check_depth(recipe, space)
    for label, genomes in space.baseline_genomes().items():
        assert label in baselines, f"baseline_genomes() has {label}, but baselines() has not."
        for genome in genomes:
            check_range(genes, genome)
    print(f"the space keeps the laws: {samples} genomes, all is well.")


def random_genome(genes: Sequence[Gene], random: np.random.RandomState) -> Genome:
    """Return a genome that is drawn evenly from the space."""
    return tuple(
        random.uniform(gene.low, gene.high)
        if gene.kind == "real"
        else float(random.randint(round(gene.low), round(gene.high) + 1))
        for gene in genes
    )


def _check_depth(recipe: Recipe, space: Space) -> None:
    stacks = recipe.layers
    depth = max(len(stacks[name]) for name in stacks if len(stacks) == 1 or "decoder" in name)
    text = f"A recipe has {depth} blocks, but max_depth is {space.max_depth}."
    assert depth <= space.max_depth, text
