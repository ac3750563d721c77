"""The joint space: a path in which every block is a merge of the parents' blocks of one depth.

The layout lists the depths of the parents (0, 1, 2, ...) in order, r times; each entry is a slot.
For each slot that the path includes, the merged model has one block, merged from the parents'
blocks of that depth with knobs of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from evomerge.config.space import JointConfig
from evomerge.errors import ConfigError
from evomerge.merging.methods.method import Method
from evomerge.recipe import Layer, Recipe
from evomerge.space.baselines import UNIFORM, experts_of, shares_of, uniform_recipe
from evomerge.space.knobs import plan_knobs
from evomerge.space.layer_genes import LayerGenes, method_inputs, rounded
from evomerge.space.paths.frame import parent_recipe
from evomerge.space.paths.slots import SlotSpace
from evomerge.space.protocol import Gene, Genome


class JointSpace:
    """Paths through the depths of the parents, and the knobs of the merge at every depth.

    Genome: the genes of the path (see `SlotSpace`), then the knobs of every slot, then those of
    embeddings and head if these are merged (`embeddings`). Knobs are as in `LayerGenes`.

    Args:
        parents: parent -> number of its blocks, which must be the same for all.
        frame, stack: as in `PathSpace`.

    Raises:
        ConfigError: the parents have different numbers of blocks, the method does not take these
            parents, or a setting is out of its range.
    """

    def __init__(
        self,
        config: JointConfig,
        method: Method,
        parents: Mapping[str, int],
        frame: Recipe,
        stack: str,
        base: str | None,
    ) -> None:
        if len(set(parents.values())) > 1:
            depths = ", ".join(f"{parent} {depth}" for parent, depth in parents.items())
            raise ConfigError(
                "space.kind is 'joint', which merges blocks of equal depth, but the parents' "
                f"depths differ ({depths}); use kind 'dataflow'."
            )
        self._frame, self._stack, self._parents = frame, stack, dict(parents)
        self._depth = next(iter(parents.values()))
        self._base, self._embeddings = base, config.embeddings
        inputs = method_inputs([method], list(parents), base)
        self._layer_genes = LayerGenes(inputs, plan_knobs([method], config.knobs), ())
        # The layout names only the host. A slot of the host stands for the depth of that block.
        self._path_space = SlotSpace(config, {frame.host: self._depth}, frame, stack)
        self.max_depth = self._path_space.max_depth
        slots = self._path_space.slots
        blocks = [f"block{slot.name.removeprefix(frame.host)}" for slot in slots]
        self._places = [*blocks, *(("embeddings", "head") if config.embeddings else ())]
        knob_genes = (
            replace(gene, name=f"{place}.{gene.name}")
            for place in self._places
            for gene in self._layer_genes.genes
        )
        self.genes: Sequence[Gene] = (*self._path_space.genes, *knob_genes)

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""
        blocks = tuple(
            replace(self._merge(genome, slot, hop.layer), scale=hop.scale)
            for slot, hop in self._path_space.hops(genome[: len(self._path_space.genes)])
        )
        recipe = replace(self._frame, layers={self._stack: blocks})
        if not self._embeddings:
            return recipe
        embeddings, head = len(self._places) - 2, len(self._places) - 1
        return replace(
            recipe,
            embeddings=self._merge(genome, embeddings, None),
            head=self._merge(genome, head, None),
        )

    def baselines(self) -> dict[str, Recipe]:
        """Return every parent as it is, and the plain average of all except the base."""
        found = {
            name: parent_recipe(name, self._depth, self._stack, self._frame)
            for name in self._parents
        }
        if len(self._parents) < 2:
            return found
        experts = experts_of(list(self._parents), self._base)
        uniform = uniform_recipe(experts, {self._stack: self._depth}, self._frame)
        return {**found, UNIFORM: uniform}

    def baseline_genomes(self) -> dict[str, list[Genome]]:
        """Return genomes of the baselines that the method can express, by label.

        Their path passes every depth once, with scales of 1. If this space does not contain that
        path, there are no such genomes.
        """
        path_genome = self._path_space.own_path(self._frame.host)
        if path_genome is None:
            return {}
        mixtures = shares_of(list(self._parents), self._base)
        if len(self._parents) < 2:
            del mixtures[UNIFORM]
        return {
            label: [
                (*path_genome, *(values * len(self._places)))
                for values in self._layer_genes.mixtures(shares).values()
            ]
            for label, shares in mixtures.items()
            if self._layer_genes.mixtures(shares)
        }

    def _merge(self, genome: Genome, place: int, layer: int | None) -> Layer:
        """Return the merge at one place."""
        genes = self._layer_genes.genes
        start = len(self._path_space.genes) + place * len(genes)
        own = genome[start : start + len(genes)]
        values = [rounded(gene, value) for gene, value in zip(genes, own, strict=True)]
        return self._layer_genes.layer(values, layer)
