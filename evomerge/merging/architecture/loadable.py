"""Checking that transformers loads a merged model as it is: no tensor missing, and none left over.

transformers only warns about a missing weight, and makes a random one. Where blocks are moved, a
config may ask for other tensors at a position than the block there has: configs count positions
("the first n blocks are dense"), and some models treat their first block in a way of its own. No
rule about this is written down here. transformers loads tensors without content (on the device
`meta`) into the model of the config, and says what does not fit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.depth import in_place, kind_of_text, understood
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint, text_section
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.stacks import is_other_modality
from evomerge.recipe import Layer, Recipe

if TYPE_CHECKING:
    from evomerge.merging.architecture.loading import Faults


def check_loadable(
    config: Mapping[str, Any],
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    vocabulary: MatchedRows | None = None,
) -> None:
    """Check that a model whose blocks are not where the host has them loads completely.

    A model whose blocks are there has the config and the tensors of the host, and is not checked;
    nor is one whose class the installed transformers does not have. What already does not fit in
    the parents' own models does not count.

    Args:
        vocabulary: the merged vocabulary if embedding rows are matched by token, else None.

    Raises:
        RecipeError: a tensor is missing, left over, or of another shape than the config asks for,
            or transformers refuses or changes the config.
    """
    host = checkpoints[recipe.host]
    moved = {
        prefix: layers
        for prefix, layers in recipe.layers.items()
        if not in_place(prefix, layers, host)
    }
    if not moved:
        return
    from evomerge.merging.architecture.loading import Loader

    try:
        Loader.of(host.config, {})
    except CheckpointError:
        return
    _Check(config, host, checkpoints, moved).run(vocabulary)


class _Place(NamedTuple):
    """The place of a tensor: stack, block and name in it; ("", -1, name) outside of the blocks."""

    prefix: str
    layer: int
    suffix: str


class _Check:
    """The check of one merged model; `moved` are its stacks whose blocks are moved."""

    def __init__(
        self,
        config: Mapping[str, Any],
        host: Checkpoint,
        checkpoints: Mapping[str, Checkpoint],
        moved: Mapping[str, Sequence[Layer]],
    ) -> None:
        self.config, self.host, self.moved, self.checkpoints = config, host, moved, checkpoints
        leads = {layer.sources[0].parent for layers in moved.values() for layer in layers}
        self.fits = {name: TensorNameMap(host, checkpoints[name]) for name in leads}
        self.faults_of = cache(self._faults_of)

    def run(self, vocabulary: MatchedRows | None) -> None:
        """Raise `RecipeError` if anything is wrong with the model."""
        from evomerge.merging.architecture.loading import Loader

        try:
            for prefix, layers in self.moved.items():
                self._check_settings(prefix, layers)
            faults = Loader.of(self.config, {}).find_faults(dict(self._shapes(vocabulary)))
        except CheckpointError as error:
            raise RecipeError(
                f"The blocks of {', '.join(self.moved)} cannot be in this order: {error}"
            ) from error
        for place, name in sorted(
            ((self._place(name), name) for name in faults),
            key=lambda item: (item[0].layer, item[1] not in faults.missing, item[1]),
        ):
            if place.prefix:
                self._check_inside(place, name, faults)
            elif place not in self.faults_of(self.host.reference):
                raise self._non_layer(name, faults)

    def _shapes(self, vocabulary: MatchedRows | None) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Yield name and shape of every tensor of the merged model."""
        for name, info in self.host.tensors.items():
            if not any(name.startswith(f"{prefix}.") for prefix in self.moved):
                by_token = vocabulary is not None and name in self.host.token_tensors
                rows = (vocabulary.size,) if vocabulary and by_token else info.shape[:1]
                yield name, (*rows, *info.shape[1:])
        for prefix, layers in self.moved.items():
            for position, layer in enumerate(layers):
                lead = layer.sources[0]
                fit, index = self.fits[lead.parent], lead.layer or 0
                for suffix in fit.block(prefix, index, position):
                    own = fit.inside(prefix, index, suffix)
                    if own is not None:
                        name = self.host.stacks[prefix].name(position, suffix)
                        yield name, self.checkpoints[lead.parent].tensors[own].shape

    def _check_settings(self, prefix: str, layers: Sequence[Layer]) -> None:
        """Check that transformers understands the settings of each layer as in its parent."""
        kind = kind_of_text(self.host)
        parents = {
            name: understood(item.text_config, kind_of_text(item), len(fit.stacks[prefix]))
            for name, fit in self.fits.items()
            for item in (self.checkpoints[name],)
        }
        section = text_section(self.config)
        for key, column in understood(section, kind, len(layers)).items():
            for i, layer in enumerate(layers):
                lead = layer.sources[0]
                own = parents[lead.parent].get(key, column)[lead.layer or 0]
                if column[i] != own:
                    raise RecipeError(
                        f"layers.{prefix}[{i}]: block {lead.layer} of {lead.parent!r} has {own!r} "
                        f"in {key!r}, and a {kind} has {column[i]!r} at this position; put "
                        "another block there."
                    )

    def _place(self, name: str) -> _Place:
        """Return the place of a tensor, by its name in the checkpoint or in the model."""
        for prefix in self.moved:
            word = prefix if len(self.host.language) > 1 else prefix.rpartition(".")[2]
            found = re.search(rf"(?:^|\.){re.escape(word)}\.(\d+)\.(.+)", name)
            if found and not is_other_modality(name):
                return _Place(prefix, int(found[1]), found[2])
        return _Place("", -1, name)

    def _faults_of(self, parent: str) -> frozenset[_Place]:
        """Return what already does not fit in a parent's own model."""
        from evomerge.merging.architecture.loading import Loader

        item = self.checkpoints[parent]
        shapes = {name: info.shape for name, info in item.tensors.items()}
        return frozenset(map(self._place, Loader.of(item.config, {}).find_faults(shapes)))

    def _check_inside(self, place: _Place, name: str, faults: Faults) -> None:
        lead = self.moved[place.prefix][place.layer].sources[0]
        if place._replace(layer=lead.layer or 0) in self.faults_of(lead.parent):
            return
        block, kind = f"block {lead.layer} of {lead.parent!r}", self.config.get("model_type")
        if name in faults.missing:
            told = f"{block} has no tensor {place.suffix!r}, which a {kind} needs at this position"
        elif name in faults.unexpected:
            told = f"{block} has the tensor {place.suffix!r}, for which a {kind} has no place here"
        else:
            own, wanted = map(list, faults.mismatched[name])
            told = (
                f"{block} has the tensor {place.suffix!r} {own}, which a {kind} needs as {wanted} "
                "at this position"
            )
        raise RecipeError(
            f"layers.{place.prefix}[{place.layer}]: {told}, and config.json cannot say it "
            "otherwise; put another block there."
        )

    def _non_layer(self, name: str, faults: Faults) -> RecipeError:
        """Return the error for a tensor outside of the blocks."""
        told = "does not fit"
        if name in faults.mismatched:
            own, wanted = map(list, faults.mismatched[name])
            told = f"has shape {own} and would have to be {wanted}"
        counts = " and ".join(
            f"{len(layers)} blocks in {prefix}" for prefix, layers in self.moved.items()
        )
        return RecipeError(
            f"Tensor {name!r} of the host {told} in a {self.config.get('model_type')} with "
            f"{counts}; list as many as the host has."
        )
