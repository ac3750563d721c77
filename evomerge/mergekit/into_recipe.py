"""Converting a mergekit file to a recipe, given the parents that it names.

Which tensor gets which value in mergekit was found by experiments (docs/recipes.md):

- A parameter is looked up in the source, then in its slice, its module and the whole file. If no
  filter of a level matches, the next level is used.
- A gradient runs over the blocks of its slice, from the first number to the last. The only block
  of a slice gets the last number, tensors outside of the blocks the first one.
- Embeddings are merged like the first slice, final norm and head like the last slice.
- Filters in a source are compared with the names of that source's tensors, filters elsewhere with
  the names of the merged model.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.errors import RecipeError, among
from evomerge.mergekit.reading import Input, MergekitFile, Slice, read
from evomerge.mergekit.values import EVERY, Rule, Rules, resolve
from evomerge.merging.methods.method import Method
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.parts import modality_misfit
from evomerge.models.stacks import Modality, modality_of
from evomerge.recipe import DTYPES, KnobValue, Layer, Recipe, Source

_MAIN = (None, "default")
"""Names of the only module of a text model; mergekit calls it `default`."""

BASE_IS_FIRST = ("slerp",)
"""Methods that have no base; for them mergekit's `base_model` is the first source."""


@dataclass(frozen=True)
class SliceSources:
    """A slice, with its inputs divided into sources and base, of as many blocks each."""

    slice: Slice
    sources: tuple[Input, ...]
    base: Input | None


def mergekit_parents(text: str) -> tuple[str, ...]:
    """Return all models that a mergekit file names; the first one gives the config."""
    return read(text).parents


def from_mergekit(
    text: str, checkpoints: Mapping[str, Checkpoint], doubts: list[str] | None = None
) -> Recipe:
    """Return the recipe for a mergekit file in any of its forms.

    `doubts` gets a sentence, or several of the same, for all that mergekit ignores in the file and
    for what the file leaves open.
    RecipeError: a key or value is wrong or does not fit the parents; the message names the key.
    """
    doubts = [] if doubts is None else doubts
    file = read(text, doubts)
    resolver = _Resolver(file.method, checkpoints, file.parents[0], doubts)
    stacks: list[tuple[str, list[SliceSources]]] = []
    modalities: dict[str, Any] = {}
    for module, slices in file.modules.items():
        merged = resolver.modalities(module, slices)
        stacks += resolver.stacks(module, slices, merged)
        modalities |= {name: resolver.outside(stacks[-1][1][0], name) for name in merged}
    return Recipe(
        host=file.parents[0],
        layers={prefix: tuple(resolver.blocks(prefix, parts)) for prefix, parts in stacks},
        embeddings=resolver.outside(stacks[0][1][0], "embeddings"),
        head=resolver.outside(stacks[-1][1][-1], "head"),
        dtype=file.keys.out_dtype or file.keys.dtype or _stored_dtype(resolver.host),
        # Without a key, mergekit merges rows by id; with one by token, even for `base`.
        tokenizer=file.parents[0] if file.tokenizer == "base" else file.tokenizer or "base",
        options=_options(file),
        **modalities,
    )


def _stored_dtype(host: Checkpoint) -> str:
    declared = host.config.get("dtype", host.config.get("torch_dtype"))
    if declared in DTYPES:
        return str(declared)
    stored = host.tensors[host.embedding].dtype if host.embedding else ""
    return next((name for name, header in DTYPES.items() if header == stored), "bfloat16")


def _options(file: MergekitFile) -> dict[str, str]:
    keys, options = file.keys.tokenizer, {}
    if keys and keys.tokens:
        options["tokens"] = json.dumps(keys.tokens, sort_keys=True, separators=(",", ":"))
    if keys and keys.pad_to_multiple_of is not None:
        options["pad_to_multiple_of"] = str(keys.pad_to_multiple_of)
    if file.keys.chat_template is not None:
        options["chat_template"] = file.keys.chat_template
    return options


def _named(slices: Sequence[Slice]) -> set[str]:
    """Return the models of a module, without base models that are not listed."""
    return {item.model for part in slices for item in part.inputs}


def _check_weights(part: SliceSources, method: Method) -> None:
    """Check that no source lacks a weight; all of a method other than `linear` may lack it."""
    if any("weight" in level for level in part.slice.levels):
        return
    has_weight = any(knob.name == "weight" for knob in method.knobs)
    without = [item for item in part.sources if has_weight and "weight" not in item.parameters]
    if without and (method.name == "linear" or len(without) < len(part.sources)):
        raise RecipeError(
            f"`{without[0].where}.parameters.weight` is missing, and mergekit has no default."
        )


def _knobs(
    method: Method,
    per: str,
    levels: Sequence[Mapping[str, Rules]],
    depth: float,
    names: Mapping[str, str],
) -> dict[str, KnobValue]:
    """Return the knobs that the file sets for a source, or for the merge as a whole (`per`)."""
    found = {}
    for knob in method.knobs:
        rules = [rule for level in levels for rule in level.get(knob.name, ())]
        if knob.per != per or not rules:
            continue
        # In mergekit, weights have no default: each tensor must match a filter.
        if knob.default is not None and knob.name != "weight":
            rules.append(Rule(EVERY, (knob.default,)))
        found[knob.name] = resolve(rules, depth, names, knob)
    return found


class _Resolver:
    """Finds the tensors of the parents that the parts of a file mean."""

    def __init__(
        self, method: Method, checkpoints: Mapping[str, Checkpoint], host: str, doubts: list[str]
    ) -> None:
        self.method, self.checkpoints, self.doubts = method, checkpoints, doubts
        self.host = checkpoints[host]
        self.fits = {name: TensorNameMap(self.host, item) for name, item in checkpoints.items()}

    def modalities(self, module: str | None, slices: Sequence[Slice]) -> list[Modality]:
        """Return what a module merges beside the language model: what all its models have."""
        if not slices[0].whole or module not in _MAIN:
            return []
        models = _named(slices) | {part.base for part in slices if part.base}
        merged = []
        for modality in self.host.modalities:
            misfits = (
                modality_misfit(self.host, self.checkpoints[name], modality)
                for name in sorted(models)
            )
            if reason := next(filter(None, misfits), None):
                self.doubts.append(
                    f"The {modality} tensors of the merge are those of {self.host.reference!r}, "
                    f"since {reason}."
                )
            else:
                merged.append(modality)
        return merged

    def stacks(
        self, module: str | None, slices: Sequence[Slice], merged: Sequence[Modality]
    ) -> Iterator[tuple[str, list[SliceSources]]]:
        """Yield (prefix, slices) of the host's block stacks that a module means, main one last."""
        towers = [prefix for prefix in self.host.stacks if modality_of(prefix) in merged]
        for prefix in (*towers, *self._language_stacks(module, slices)):
            parts = [
                slice_sources(part, prefix, self.method, self.fits, self.doubts) for part in slices
            ]
            for part in parts:
                _check_weights(part, self.method)
            yield prefix, parts

    def _language_stacks(self, module: str | None, slices: Sequence[Slice]) -> Sequence[str]:
        language, main = self.host.language, self.host.decoder_stack.prefix
        if module in _MAIN and slices[0].whole:
            models = _named(slices)
            shared = [p for p in language if all(p in self.fits[name].stacks for name in models)]
            return sorted(shared, key=lambda prefix: prefix == main)
        if module in _MAIN:
            if len(language) > 1:
                raise RecipeError(
                    f"{self.host.reference!r} has the block stacks {', '.join(language)}; give "
                    "each under `modules`."
                )
            return [main]
        found = [prefix for prefix in language if str(module) in prefix]
        if len(found) != 1:
            raise RecipeError(
                f"`modules.{module}` must be part of the name of exactly one block stack of "
                f"{self.host.reference!r}: {among(str(module), language)}"
            )
        return found

    def blocks(self, prefix: str, parts: Sequence[SliceSources]) -> Iterator[Layer]:
        """Yield the merged blocks of a stack."""
        stack, position = self.host.stacks[prefix], 0
        for part in parts:
            lead = part.sources[0]
            for i, block in enumerate(lead.layers):
                suffixes = self.fits[lead.model].block(prefix, block, position)
                merged = {suffix: stack.name(position, suffix) for suffix in suffixes}
                seen = [
                    {
                        name: self.fits[entry.model].inside(prefix, entry.layers[i], suffix) or name
                        for suffix, name in merged.items()
                    }
                    for entry in part.sources
                ]
                depth = i / (len(lead.layers) - 1) if len(lead.layers) > 1 else 1.0
                yield self._layer(part, i, depth, merged.values(), seen)
                position += 1

    def outside(self, part: SliceSources, place: str) -> Layer:
        """Return the layer of the embeddings, the head or a modality, from a slice at that end."""
        found = self.host.places.items()
        names = [name for name, p in found if place == (modality_of(name) if p == "kept" else p)]
        fits = [self.fits[entry.model].non_layer for entry in part.sources]
        seen = [{name: fit.get(name, name) for name in names} for fit in fits]
        return self._layer(part, None, 0.0, names, seen)

    def _layer(
        self,
        part: SliceSources,
        block: int | None,
        depth: float,
        names: Iterable[str],
        seen: Sequence[Mapping[str, str]],
    ) -> Layer:
        """Return a layer of the recipe: block `block` of a slice, or what is outside of blocks.

        `names` are those of its tensors in the merged model. `seen` has for each source the names
        that its filters are compared with.
        """
        method, levels = self.method, part.slice.levels

        def source(entry: Input, own: Mapping[str, str] | None) -> Source:
            found = [entry.parameters, *levels]
            knobs = {} if own is None else _knobs(method, "source", found, depth, own)
            return Source(entry.model, None if block is None else entry.layers[block], knobs)

        return Layer(
            method.name,
            tuple(map(source, part.sources, seen)),
            source(part.base, None) if part.base else None,
            _knobs(method, "merge", levels, depth, {name: name for name in names}),
        )


def slice_sources(
    item: Slice, prefix: str, method: Method, fits: Mapping[str, TensorNameMap], doubts: list[str]
) -> SliceSources:
    """Return the sources and the base of a slice of the block stack `prefix`.

    RecipeError: a range of blocks is wrong, or the base model is missing or does not fit.
    """
    base, inputs = item.base, list(item.inputs)
    if base and base not in [entry.model for entry in inputs]:
        inputs += _added_base(item, base, method, doubts)
    ranged = [_with_range(entry, prefix, fits) for entry in inputs]
    lengths = {entry.model: len(entry.layers) for entry in ranged}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise RecipeError(
            f"`{item.where}` merges block by block, but its models have different numbers of "
            f"them: {counts}; give each a `layer_range` of the same length under `slices`."
        )
    if method.base != "none":
        return SliceSources(item, *_split(item, ranged, method, doubts))
    if method.name in BASE_IS_FIRST:
        if base is None:
            doubts.append(
                f"`base_model` is missing, so {method.name} starts at t = 0 from the first model "
                f"of `{item.where}`, {ranged[0].model!r}; name it as `base_model`."
            )
        ranged.sort(key=lambda entry: entry.model != base)
    return SliceSources(item, tuple(ranged), None)


def _added_base(item: Slice, base: str, method: Method, doubts: list[str]) -> list[Input]:
    """Return the base model as an input of a slice that does not list it; [] if it is none."""
    layers = range(0)
    if method.base != "none" and not item.whole:
        layers, *others = {entry.layers for entry in item.inputs}
        doubt = f"`base_model` {base!r} is not among the sources of `{item.where}`"
        if others:
            raise RecipeError(f"{doubt}, whose ranges differ; list it with its `layer_range`.")
        blocks = f"blocks [{layers.start}, {layers.stop}]" if layers else "blocks"
        doubts.append(f"{doubt}, so its {blocks} are taken; list it with its `layer_range`.")
    elif method.name in BASE_IS_FIRST and not (item.whole and len(item.inputs) == 1):
        doubts.append(
            f"`base_model` {base!r} is not listed in `{item.where}`, so it only gives config and "
            f"tokenizer, and {method.name} starts at t = 0 from the first model there, "
            f"{item.inputs[0].model!r}; name that one as `base_model`."
        )
        return []
    elif method.base == "none" and method.name not in BASE_IS_FIRST:
        if item.whole and any(knob.per == "source" for knob in method.knobs):
            raise RecipeError(
                f"`base_model` is {base!r}, which is not listed in `{item.where}`; "
                f"{method.name} uses no other base, so add it there or remove `base_model`."
            )
        if not item.whole:
            return []
    return [Input(base, layers, {}, "base_model")]


def _split(
    item: Slice, inputs: list[Input], method: Method, doubts: list[str]
) -> tuple[tuple[Input, ...], Input | None]:
    """Divide the inputs of a slice into sources and base."""
    base = item.base
    if base is None and method.base == "required":
        raise RecipeError(
            f"`base_model` is missing; {method.name} measures task vectors from it, so name it."
        )
    found = [entry for entry in inputs if entry.model == base]
    if len(found) > 1:
        raise RecipeError(f"`{item.where}` has the `base_model` {base!r} twice; list it once.")
    if found and found[0].parameters:
        doubts.append(
            f"`{found[0].where}.parameters` ({', '.join(found[0].parameters)}) is ignored, as in "
            f"mergekit, since {base!r} is the base model; remove it."
        )
    sources = tuple(entry for entry in inputs if entry.model != base)
    if not sources:
        doubts.append(f"`{item.where}` has only the base model, {base!r}, which stays; add one.")
        sources = (replace(found[0], parameters={}),)
    return sources, found[0] if found else None


def _with_range(entry: Input, prefix: str, fits: Mapping[str, TensorNameMap]) -> Input:
    """Return an input with its range of blocks, which by default is all blocks of the model."""
    stack = fits[entry.model].stacks.get(prefix)
    if stack is None:
        raise RecipeError(f"`{entry.where}`: {entry.model!r} has no block stack {prefix!r}.")
    layers = entry.layers or range(len(stack))
    if layers.stop > len(stack):
        raise RecipeError(
            f"`{entry.where}.layer_range` is [{layers.start}, {layers.stop}]; {entry.model!r} has "
            f"{len(stack)} blocks."
        )
    return replace(entry, layers=layers)
