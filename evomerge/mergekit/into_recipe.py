"""Converting a mergekit file to a recipe, given the parents that it names.

Which tensor gets which value in mergekit was found by experiments (docs/recipes.md):

- A parameter is looked up in the source, then in its slice, its module and the whole file. If no
  filter of a level matches, the next level is used.
- A gradient runs over the blocks of its slice: the first block gets the first number, the last
  block the last one. If a slice has only one block, it gets the last number. Tensors outside of the
  blocks get the first number.
- Embeddings are merged like the first slice, final norm and head like the last slice.
- Filters in a source are compared with the names of that source's tensors, filters in a slice,
  module or file with the names of the merged model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.mergekit.file import MAIN, ImportWarnings, Input, MergekitFile, Module
from evomerge.mergekit.reading import read
from evomerge.mergekit.sources import SliceSources, length, slice_sources, start
from evomerge.mergekit.values import EVERY, Rule, Rules, resolve
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Knob as MethodKnob
from evomerge.merging.methods.method import Method
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap, modality_misfit
from evomerge.models.stacks import Modality, modality_of
from evomerge.recipe import DTYPES, Knob, Layer, Recipe, Source

_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def mergekit_parents(text: str) -> tuple[str, ...]:
    """Return all models that a mergekit file names; the first one gives the config."""
    return read(text).parents


def from_mergekit(
    text: str, checkpoints: Mapping[str, Checkpoint], doubts: ImportWarnings | None = None
) -> Recipe:
    """Return the recipe for a mergekit file in any of its forms.

    `doubts` is told of what mergekit ignores in the file, and of what the file leaves open.

    Raises:
        RecipeError: a key or value is wrong or does not fit the parents; the message names the key.
    """
    doubts = doubts or ImportWarnings()
    return _Resolver(read(text, doubts), checkpoints, doubts).recipe()


class _Resolver:
    def __init__(
        self, file: MergekitFile, checkpoints: Mapping[str, Checkpoint], doubts: ImportWarnings
    ) -> None:
        self.file, self.doubts = file, doubts
        self.method: Method = get_method(file.method)
        self.checkpoints = checkpoints
        self.host = checkpoints[file.parents[0]]
        self._fits = {name: TensorNameMap(self.host, item) for name, item in checkpoints.items()}

    def recipe(self) -> Recipe:
        layers: dict[str, tuple[Layer, ...]] = {}
        modalities: dict[str, Any] = {}
        first: Layer | None = None
        for module in self.file.modules:
            merged = self._modalities(module)
            towers = [prefix for prefix in self.host.stacks if modality_of(prefix) in merged]
            for prefix in (*towers, *self._stacks(module)):
                parts = [
                    slice_sources(
                        item,
                        prefix,
                        whole=module.whole,
                        base=item.base or self.file.base,
                        method=self.method,
                        fits=self._fits,
                        doubts=self.doubts,
                    )
                    for item in module.slices
                ]
                blocks: list[Layer] = []
                for part in parts:
                    self._check_weights(module, part)
                    blocks += self._blocks(module, part, prefix, len(blocks))
                layers[prefix] = tuple(blocks)
                first = first or self._outside(module, parts[0], "embeddings")
                last = self._outside(module, parts[-1], "head")
            modalities |= {name: self._outside(module, parts[0], name) for name in merged}
        assert first is not None
        return Recipe(
            host=self.file.parents[0],
            layers=layers,
            embeddings=first,
            head=last,
            dtype=self.file.dtype or self._host_dtype(),
            tokenizer=self._tokenizer(),
            options=self.file.options,
            **modalities,
        )

    def _modalities(self, module: Module) -> list[Modality]:
        """Return what a module merges beside the language model: what all its models have."""
        if not module.whole or module.name not in (None, MAIN):
            return []
        named = {item.model for part in module.slices for item in part.inputs}
        bases = {part.base or self.file.base for part in module.slices} - {None}
        merged = []
        for modality in self.host.modalities:
            misfits = (
                modality_misfit(self.host, self.checkpoints[str(name)], modality)
                for name in sorted(named | bases, key=str)
            )
            if reason := next(filter(None, misfits), None):
                self.doubts.add(
                    f"The {modality} tensors of the merge are those of {self.host.reference!r}, "
                    f"since {reason}."
                )
            else:
                merged.append(modality)
        return merged

    def _check_weights(self, module: Module, part: SliceSources) -> None:
        """Check that no source lacks a weight; all of a method other than `linear` may lack it."""
        levels = [part.slice.parameters, module.parameters, self.file.parameters]
        if all(knob.name != "weight" for knob in self.method.knobs) or any(
            "weight" in level for level in levels
        ):
            return
        without = [item for item in part.sources if "weight" not in item.parameters]
        if without and (self.method.name == "linear" or len(without) < len(part.sources)):
            raise RecipeError(
                f"`{without[0].where}.parameters.weight` is missing, and mergekit has no default "
                "for it; give each model a weight."
            )

    def _stacks(self, module: Module) -> tuple[str, ...]:
        """Return the prefixes of the host's block stacks that a module means, the main one last."""
        language = self.host.language
        if module.name in (None, MAIN):
            if module.whole:
                named = {item.model for part in module.slices for item in part.inputs}
                shared = [p for p in language if all(p in self._fits[m].stacks for m in named)]
                main = self.host.decoder_stack.prefix
                return tuple(sorted(shared, key=lambda prefix: prefix == main))
            if len(language) > 1:
                raise RecipeError(
                    f"`slices` is not enough for {self.host.reference!r}, which has the block "
                    f"stacks {', '.join(language)}; give each under `modules`."
                )
            return (self.host.decoder_stack.prefix,)
        found = [prefix for prefix in language if str(module.name) in prefix]
        if len(found) != 1:
            raise RecipeError(
                f"`modules.{module.name}` must be part of the name of exactly one block stack of "
                f"{self.host.reference!r}; it has {', '.join(language)}."
                f"{did_you_mean(str(module.name), language)}"
            )
        return tuple(found)

    def _blocks(
        self, module: Module, part: SliceSources, prefix: str, begin: int
    ) -> Iterator[Layer]:
        """Yield the blocks of a slice; the first one is block `begin` of the merged model."""
        count = length(part.sources[0]) if part.sources else 0
        stack = self.host.stacks[prefix]
        for i in range(count):
            depth = i / (count - 1) if count > 1 else 1.0
            lead = part.sources[0]
            suffixes = self._fits[lead.model].block(prefix, start(lead) + i, begin + i)
            merged = {suffix: stack.name(begin + i, suffix) for suffix in suffixes}

            def shown(entry: Input, i: int = i, merged: dict[str, str] = merged) -> dict[str, str]:
                fit = self._fits[entry.model]
                return {
                    name: fit.inside(prefix, start(entry) + i, suffix) or name
                    for suffix, name in merged.items()
                }

            yield self._layer(module, part, depth, list(merged.values()), shown, i)

    def _outside(self, module: Module, part: SliceSources, place: str) -> Layer:
        """Return the layer for what is outside of blocks, from the first or the last slice.

        `place`: `embeddings`, `head` or a modality.
        """
        names = [
            name
            for name, found in self.host.places.items()
            if place == (modality_of(name) if found == "kept" else found)
        ]

        def shown(entry: Input) -> dict[str, str]:
            return {name: self._fits[entry.model].non_layer.get(name, name) for name in names}

        return self._layer(module, part, 0.0, names, shown, None)

    def _layer(
        self,
        module: Module,
        part: SliceSources,
        depth: float,
        names: list[str],
        shown: Callable[[Input], dict[str, str]],
        block: int | None,
    ) -> Layer:
        """Return a layer of the recipe: block `block` of a slice, or what is outside of blocks.

        Args:
            depth: position in the slice, from 0 (first block) to 1 (last block).
            names: names of the layer's tensors in the merged model.
            shown: returns, for an input, merged name -> name that its filters are compared with.
        """
        levels = [part.slice.parameters, module.parameters, self.file.parameters]

        def source(entry: Input, *, knobs: bool = True) -> Source:
            layer = None if block is None else start(entry) + block
            if not knobs:
                return Source(entry.model, layer)
            own = self._knobs("source", [entry.parameters, *levels], depth, shown(entry))
            return Source(entry.model, layer, own)

        return Layer(
            self.method.name,
            tuple(source(entry) for entry in part.sources),
            source(part.base, knobs=False) if part.base else None,
            self._knobs("merge", levels, depth, {name: name for name in names}),
        )

    def _knobs(
        self,
        per: str,
        levels: Sequence[Mapping[str, Rules]],
        depth: float,
        names: Mapping[str, str],
    ) -> dict[str, Knob]:
        found = {}
        for knob in self.method.knobs:
            if knob.per == per:
                rules = [rule for level in levels for rule in level.get(knob.name, ())]
                if rules:
                    found[knob.name] = self._resolve(knob, rules, depth, names)
        return found

    def _resolve(
        self, knob: MethodKnob, rules: list[Rule], depth: float, names: Mapping[str, str]
    ) -> Knob:
        # In mergekit, weights have no default: each tensor must match a filter.
        if knob.default is not None and knob.name != "weight":
            rules = [*rules, Rule(EVERY, (knob.default,))]
        value = resolve(rules, depth, names, knob.name)
        if knob.kind == "flag":
            if isinstance(value, float):
                return float(value != 0)
            return tuple((pattern, float(item != 0)) for pattern, item in value)
        return value

    def _host_dtype(self) -> str:
        config = self.host.config
        declared = config.get("dtype", config.get("torch_dtype"))
        if declared in DTYPES:
            return str(declared)
        embedding = self.host.embedding
        stored = self.host.tensors[embedding].dtype if embedding else ""
        return _DTYPES.get(stored, "bfloat16")

    def _tokenizer(self) -> str:
        """Return the recipe's `tokenizer`.

        Without a key, mergekit merges rows by id; with one by token, even for `base`.
        """
        wanted = self.file.tokenizer
        if wanted is None:
            return "base"
        return self.file.parents[0] if wanted == "base" else wanted
