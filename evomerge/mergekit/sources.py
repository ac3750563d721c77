"""The sources and the base of a slice in a mergekit file, each with its range of blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from evomerge.errors import RecipeError
from evomerge.mergekit.reading import Input, Slice
from evomerge.merging.methods.method import Method
from evomerge.models.correspondence import TensorNameMap

BASE_IS_FIRST = ("slerp",)
"""Methods that have no base; for them mergekit's `base_model` is the first source."""


@dataclass(frozen=True)
class SliceSources:
    """A slice, with its inputs divided into sources and base, of as many blocks each."""

    slice: Slice
    sources: tuple[Input, ...]
    base: Input | None


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
