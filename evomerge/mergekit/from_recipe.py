"""A recipe becomes a mergekit file that makes the same model, where there is one.

Blocks that follow each other in all of their parents and are merged alike become one slice; what
is different outside of the blocks is told apart by filters that name those tensors in the first
and the last slice. Scales of layer routing become `scale` filters.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from evomerge.errors import RecipeError
from evomerge.merge.methods import get_method
from evomerge.merge.methods.method import Method
from evomerge.mergekit.into_recipe import BASE_IS_FIRST
from evomerge.mergekit.parameters import Frame, SliceKnobs
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import Fit
from evomerge.recipe import Layer, Recipe, Source, knob_at

log = logging.getLogger(__name__)

_MERGEKIT_NAMES = {"ramplus": "ramplus_tl"}
_PERSONAL = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


def to_mergekit(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> str | None:
    """Return mergekit's YAML for a recipe, or None (with the reason in the log) without one.

    Methods that draw at random (DARE, DELLA) draw otherwise in mergekit: the file then makes a
    model of the same distribution. Rows of padding are cut by mergekit where the tokenizer is not
    the host's own. The file says so in its first lines.

    Args:
        recipe: what to express.
        checkpoints: every parent it names, by reference.
    """
    try:
        return express(recipe, checkpoints)
    except RecipeError as error:
        log.info("There is no mergekit file for this recipe: %s", error)
        return None


def express(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> str:
    """Return mergekit's YAML for a recipe.

    Raises:
        RecipeError: mergekit has no form for it; the message says why.
    """
    return _Writer(recipe, checkpoints).text()


def mergekit_reference(checkpoint: Checkpoint) -> str:
    """Return how mergekit can be told of a parent: its Hub id, or the path of its folder."""
    model, _, adapter = checkpoint.reference.partition("+")
    if checkpoint.folder.parent.name != "snapshots":
        model = str(checkpoint.folder.absolute())
    if checkpoint.adapter is not None:
        if checkpoint.adapter.parent.name != "snapshots":
            adapter = str(checkpoint.adapter.absolute())
        return f"{model}+{adapter}"
    return model


@dataclass(frozen=True)
class _Run:
    """Blocks of the merged model that become one slice.

    Attributes:
        start: position of the first in the merged model.
        layers: the blocks.
    """

    start: int
    layers: tuple[Layer, ...]


class _Writer:
    def __init__(self, recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> None:
        self.recipe, self.checkpoints = recipe, checkpoints
        self.host = checkpoints[recipe.host]
        method, prefix = get_method(recipe.embeddings.method), self._only_stack()
        fits = {name: Fit(self.host, item) for name, item in checkpoints.items()}
        self.layers = recipe.layers[prefix]
        self.frame = Frame(method, prefix, fits, self._factors(method))
        for layer in recipe.every_layer():
            if layer.method != recipe.embeddings.method:
                raise RecipeError(
                    f"it merges with {recipe.embeddings.method} and {layer.method}, and mergekit "
                    "has one method a file."
                )
        for outside, block, where in (
            (recipe.embeddings, self.layers[0], "embeddings"),
            (recipe.head, self.layers[-1], "head"),
        ):
            if _names(outside) != _names(block):
                raise RecipeError(
                    f"`{where}` has other parents than the block beside it, from which mergekit "
                    "takes them."
                )

    def text(self) -> str:
        runs = self._runs()
        base = self._base()
        data: dict[str, Any] = {
            "merge_method": _MERGEKIT_NAMES.get(self.frame.method.name, self.frame.method.name)
        }
        if len(runs) == 1 and self._whole(base):
            content = self._slice(runs[0], first=True, last=True)
            data["models"] = [
                {key: value for key, value in item.items() if key != "layer_range"}
                for item in content.pop("sources")
            ]
            data |= content
        else:
            data["slices"] = [
                self._slice(run, first=run is runs[0], last=run is runs[-1]) for run in runs
            ]
        if base is not None:
            data["base_model"] = self._reference(base)
        data["dtype"] = "float64" if self.recipe.dtype == "float64" else "float32"
        if self.recipe.dtype != data["dtype"]:
            data["out_dtype"] = self.recipe.dtype
        data |= self._tokenizer()
        text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=100)
        return "".join(f"# {remark}\n" for remark in self._remarks()) + text

    def _remarks(self) -> Iterator[str]:
        """Yield what mergekit's model does not share with the recipe's."""
        if self.frame.method.random:
            yield "mergekit draws at random: same distribution, not the same numbers."
        if self.recipe.tokenizer != "base" and "pad_to_multiple_of" not in self.recipe.options:
            from evomerge.merge.tokenizers.plan import plan_tokenizer

            rows = plan_tokenizer(self.recipe, self.checkpoints).rows
            if rows is not None and rows.size > rows.tokens:
                yield (
                    f"mergekit cuts the embeddings to the {rows.tokens} tokens; the recipe keeps "
                    f"{rows.size} rows, padding included. Every token's row is the same."
                )

    def _only_stack(self) -> str:
        host, layers = self.host, self.recipe.layers
        more = sorted(set(host.stacks) - set(layers)) + sorted(layers)[1:]
        kept = [name for name, place in host.places.items() if place == "kept"]
        if more or kept or not layers:
            raise RecipeError(
                f"the host has more than one stack of blocks ({', '.join(host.stacks)}) or another "
                "modality, and mergekit's treatment of these is not known."
            )
        return next(iter(layers))

    def _factors(self, method: Method) -> Mapping[str, float]:
        """Return the factors of layer routing by merged tensor."""
        if all(layer.scale == 1 for layer in self.recipe.every_layer()):
            return {}
        from evomerge.merge.architecture.folding import fold_scales

        rescalings = fold_scales(self.recipe, self.host)
        if method.name != "passthrough" or any(item.offset for item in rescalings.values()):
            raise RecipeError("it scales the hidden state between merged blocks.")
        return {name: item.factor for name, item in rescalings.items()}

    def _base(self) -> str | None:
        """Return the base model of the file, which gives mergekit the config too."""
        layer = self.recipe.embeddings
        base: str | None = self.recipe.host
        if layer.base is not None:
            base = layer.base.parent
        elif self.frame.method.name in BASE_IS_FIRST:
            base = layer.sources[0].parent
        elif self.frame.method.base != "none" or self._fills_otherwise():
            base = None
        if base not in (None, self.recipe.host):
            raise RecipeError(
                f"its config comes from {self.recipe.host!r}, and mergekit takes it from the base "
                f"model {base!r}."
            )
        if base is None:
            self._check_configs()
        return base

    def _fills_otherwise(self) -> bool:
        """Whether a base would change what goes into the rows of tokens that parents lack."""
        recipe = self.recipe
        if recipe.tokenizer == "base" or recipe.vocabulary:
            return False
        return len(recipe.parents) > 2

    def _check_configs(self) -> None:
        ignored = _PERSONAL if self.recipe.tokenizer == "base" else (*_PERSONAL, "vocab_size")

        def plain(name: str) -> dict[str, Any]:
            config = self.checkpoints[name].config
            return {key: value for key, value in config.items() if key not in ignored}

        for name in self.recipe.parents:
            if plain(name) != plain(self.recipe.host):
                raise RecipeError(
                    f"the configs of {self.recipe.host!r} and {name!r} differ, and without a base "
                    "model mergekit takes either."
                )

    def _runs(self) -> list[_Run]:
        runs: list[_Run] = []
        for position, layer in enumerate(self.layers):
            if runs and self._continues(runs[-1].layers[-1], position - 1, layer, position):
                runs[-1] = _Run(runs[-1].start, (*runs[-1].layers, layer))
            else:
                runs.append(_Run(position, (layer,)))
        return runs

    def _continues(self, old: Layer, old_position: int, new: Layer, position: int) -> bool:
        if _names(old) != _names(new) or old.scale != 1 or new.scale != 1:
            return False
        if any(b.layer != (a.layer or 0) + 1 for a, b in zip(_all(old), _all(new), strict=True)):
            return False
        alike: bool = self._values(old, old_position) == self._values(new, position)
        return alike

    def _values(self, layer: Layer, position: int) -> Any:
        """Return every knob of a block by tensor, which is what makes blocks alike."""
        names = self.frame.block_names(layer, position)
        return {
            rest: [
                {key: knob_at(knob, name) for key, knob in knobs.items()}
                for knobs in (layer.knobs, *(source.knobs for source in layer.sources))
            ]
            + [self.frame.factors.get(name, 1.0)]
            for rest, name in names.items()
        }

    def _whole(self, base: str | None) -> bool:
        for source in _all(self.layers[0]):
            stack = self.frame.fits[source.parent].stacks[self.frame.prefix]
            if source.layer != 0 or len(stack) != len(self.layers):
                return False
        return self.frame.method.base != "none" or base is None or base in _names(self.layers[0])

    def _slice(self, run: _Run, *, first: bool, last: bool) -> dict[str, Any]:
        lead = run.layers[0]
        outside = [
            (name, layer)
            for layer, place, here in (
                (self.recipe.embeddings, "embeddings", first),
                (self.recipe.head, "head", last),
            )
            if here
            for name, found in self.host.places.items()
            if found == place
        ]
        sources = [
            self._source(run, source, SliceKnobs(self.frame, run.start, run.layers, outside, i))
            for i, source in enumerate(lead.sources)
        ]
        if lead.base is not None:
            sources.append(self._source(run, lead.base, None))
        content: dict[str, Any] = {"sources": sources}
        shared = SliceKnobs(self.frame, run.start, run.layers, outside, None).parameters()
        if shared:
            content["parameters"] = shared
        return content

    def _source(self, run: _Run, source: Source, knobs: SliceKnobs | None) -> dict[str, Any]:
        start = source.layer or 0
        entry: dict[str, Any] = {
            "model": self._reference(source.parent),
            "layer_range": [start, start + len(run.layers)],
        }
        parameters = knobs.parameters() if knobs else {}
        return {**entry, "parameters": parameters} if parameters else entry

    def _reference(self, parent: str) -> str:
        return mergekit_reference(self.checkpoints[parent])

    def _tokenizer(self) -> dict[str, Any]:
        options = self.recipe.options
        found: dict[str, Any] = {}
        if self.recipe.tokenizer != "base":
            self._check_vocabulary()
            named = self.recipe.tokenizer != "union"
            source = self._reference(self.recipe.tokenizer) if named else "union"
            found["tokenizer"] = {"source": source}
            if "tokens" in options:
                found["tokenizer"]["tokens"] = self._renamed(json.loads(options["tokens"]))
            if "pad_to_multiple_of" in options:
                found["tokenizer"]["pad_to_multiple_of"] = int(options["pad_to_multiple_of"])
        template = options.get("chat_template", "")
        if template in self.checkpoints:
            from evomerge.merge.tokenizers.chat_template import template_of

            template = template_of(self.checkpoints[template]) or ""
        return found | ({"chat_template": template} if template else {})

    def _check_vocabulary(self) -> None:
        from evomerge.merge.tokenizers.plan import plan_tokenizer

        ours = plan_tokenizer(self.recipe, self.checkpoints)
        theirs = plan_tokenizer(replace(self.recipe, vocabulary=()), self.checkpoints)
        assert ours.rows is not None
        assert theirs.rows is not None
        alike = all(ours.rows.index[name] == index for name, index in theirs.rows.index.items())
        if not alike or ours.files != theirs.files or ours.rows.filling != theirs.rows.filling:
            raise RecipeError("its vocabulary has tokens of parents that it does not merge.")

    def _renamed(self, tokens: Any) -> Any:
        if isinstance(tokens, dict):
            return {key: self._renamed(value) for key, value in tokens.items()}
        return self._reference(tokens) if tokens in self.checkpoints else tokens


def _all(layer: Layer) -> Iterator[Source]:
    yield from layer.sources
    if layer.base is not None:
        yield layer.base


def _names(layer: Layer) -> list[str]:
    return [source.parent for source in _all(layer)] + [str(layer.base is not None)]
