"""Ranges around the numbers of a mergekit file, for a search that begins where a merge stands.

A number becomes the range from 0 to twice the number, within what the method allows. Slices and
lists of numbers become layer groups, filters components. What has no counterpart in a search file
is named in a note.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import listed
from evomerge.mergekit.into_recipe import BASE_IS_FIRST
from evomerge.mergekit.reading import MergekitFile, Slice
from evomerge.mergekit.values import EVERY, Rule
from evomerge.merging.methods.method import Knob, Method
from evomerge.models.stacks import component_of

_AROUND_ZERO = 0.25  # how far a range goes to both sides of a number that is 0
_OUTSIDE = ("embed", "lm_head", "wte", "wpe")  # in names of tensors outside of the blocks


@dataclass
class SearchParts:
    """The parts of a search file that another tool's file gives.

    Attributes:
        parents: models that are merged, without the base; the first gives config and tokenizer if
            there is no base.
        base: the model that task vectors are measured from; None: there is none.
        keys: `dtype` and `tokenizer`, if the file has them.
        space: the section `space`; empty if the file has nothing that could be searched.
        blocks_per_group: number of blocks in a layer group; None: `space` has the groups.
        tasks: objectives, each with `task`, and `metric` and `weight` if the file has them.
        evaluation: keys `fewshot` and `chat_template`, if the file has them.
        limit: number of search documents; None: the file does not say.
        notes: a sentence for each key that is not carried over, and for what is carried over in
            another form.
    """

    parents: Sequence[str]
    base: str | None
    keys: dict[str, Any] = field(default_factory=dict)
    space: dict[str, Any] = field(default_factory=dict)
    blocks_per_group: int | None = None
    tasks: list[dict[str, Any]] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    notes: list[str] = field(default_factory=list)


def parts_of_merge(file: MergekitFile, doubts: list[str]) -> SearchParts:
    """Return what a search file takes over from a mergekit file.

    `doubts` are sentences about what mergekit ignores in the file.
    """
    method = file.method
    slices = [part for slices in file.modules.values() for part in slices]
    listed_models = [*dict.fromkeys(entry.model for part in slices for entry in part.inputs)]
    bases = [*dict.fromkeys(part.base for part in slices if part.base)]
    base, parents = (bases[0] if bases and method.base != "none" else None), listed_models
    notes = list(dict.fromkeys(doubts))
    if base is not None:
        parents = [model for model in listed_models if model != base]
    elif bases and (bases[0] in listed_models or _adds_base(method, slices)):
        parents = [bases[0], *(model for model in listed_models if model != bases[0])]
    elif bases:
        notes.append(
            f"`base_model` {bases[0]!r} is not carried over, since {method.name} merges no base "
            "and the file does not list it among the models."
        )
    if len(bases) > 1:
        notes.append(f"`base_model` of the slices is {listed(bases)}; a search has one, the first.")
    parts = SearchParts(parents, base, notes=notes)
    _carry_keys(file, parts)
    if len(file.modules) > 1:
        notes.append(
            f"`modules` ({listed(map(str, file.modules))}) are not carried over one by one: a "
            "search has the same layer groups in all block stacks."
        )
    if method.name == "passthrough" or not all(map(_keeps_depth, file.modules.values())):
        _carry_path(method, slices, parts)
    else:
        _carry_knobs(method, max(file.modules.values(), key=len), parts)
    return parts


def _adds_base(method: Method, slices: Sequence[Slice]) -> bool:
    """Whether mergekit merges a base model that the file does not list among the models."""
    return method.name in BASE_IS_FIRST and len(slices) == 1 and len(slices[0].inputs) == 1


def _carry_keys(file: MergekitFile, parts: SearchParts) -> None:
    """Carry over the keys of a mergekit file outside of models, slices and parameters."""
    keys, models = file.keys, {*parts.parents, parts.base}
    if dtype := keys.out_dtype or keys.dtype:
        parts.keys["dtype"] = dtype
    if keys.out_dtype and keys.dtype and keys.dtype != keys.out_dtype:
        parts.notes.append(
            f"`dtype` {keys.dtype} is not carried over: merges are computed in float32, and "
            f"written as `out_dtype` {keys.out_dtype}."
        )
    tokenizer = file.tokenizer
    if tokenizer is None:
        pass
    elif tokenizer in ("base", "union") or tokenizer in models:
        parts.keys["tokenizer"] = tokenizer
    else:
        parts.notes.append(
            f"`tokenizer_source` {tokenizer!r} is not carried over, since it is no parent; name "
            "one in `tokenizer`."
        )
    if keys.tokenizer and (keys.tokenizer.tokens or keys.tokenizer.pad_to_multiple_of):
        parts.notes.append(
            "`tokenizer.tokens` and `tokenizer.pad_to_multiple_of` are not carried over; a search "
            "has no such keys."
        )
    if keys.chat_template is not None:
        parts.notes.append(
            "`chat_template` is not carried over: merges have the chat template of the host, and "
            "`evaluation.chat_template` says whether prompts use it."
        )


def _keeps_depth(slices: Sequence[Slice]) -> bool:
    """Whether each block is merged from the blocks at its own depth."""
    stop = 0
    for part in slices:
        ranges = {entry.layers for entry in part.inputs}
        if len(ranges) > 1:
            return False
        (layers,) = ranges
        if not layers:  # all blocks
            return len(slices) == 1
        if layers.start != stop:
            return False
        stop = layers.stop
    return True


def _carry_path(method: Method, slices: Sequence[Slice], parts: SearchParts) -> None:
    """Carry over slices that a model is stacked from, as a space of slices."""
    if parts.base is not None:
        parts.parents, parts.base = [parts.base, *parts.parents], None
    if len(slices) == 1:
        parts.notes.append(
            "the file copies one model, so its blocks may come from any parent now; give the "
            "space that you mean in `space`."
        )
    if method.name != "passthrough":
        parts.notes.append(
            f"`merge_method` {method.name} and its parameters are not carried over: its slices "
            "move blocks to other depths, and such a space has blocks of one parent each."
        )
    elif any(entry.parameters for part in slices for entry in part.inputs) or slices[0].levels[0]:
        parts.notes.append(
            "`scale` is not carried over, since it scales tensors; `space.scales` is the factor "
            "on the hidden state that enters a block, and may be a range."
        )
    blocks = sum(len(part.inputs[0].layers) for part in slices)
    parts.space = {
        "kind": "dataflow",
        "variant": "frankenmerge",
        "slices": [min(2, len(slices)), max(2, len(slices))],
        **({"layers": [1, blocks]} if blocks else {}),
        "scales": 1,
    }


def _carry_knobs(method: Method, slices: Sequence[Slice], parts: SearchParts) -> None:
    """Carry over the method and its numbers, as a space of parameters."""
    most = method.parents[1]
    if most is not None and len(parts.parents) > most:
        parts.notes.append(
            f"`merge_method` {method.name} is not carried over: it merges {most} models at a "
            f"time, and the slices have {len(parts.parents)} in all."
        )
        return
    if not any(knob.search for knob in method.knobs):
        parts.notes.append(
            f"`merge_method` {method.name} is not carried over: it has no number that could be "
            "searched."
        )
        return
    numbers = {knob: [*_rules(slices, knob.name)] for knob in method.knobs}
    knobs = {
        knob.name: value
        for knob, rules in numbers.items()
        if rules and (value := _searched(knob, rules)) is not None
    }
    every = [rule for rules in numbers.values() for rule in rules]
    groups = _carry_groups(slices, every, parts)
    components, has_ends = components_named(every)
    parts.space = {
        "method": method.name,
        "groups": groups,
        **({"smooth": True} if groups != "one" and _is_gradient(every) else {}),
        **({"components": components} if components else {}),
        "embeddings": has_ends or components == "each",
        **({"most_parents": 1} if parts.base and len(parts.parents) == 1 != most else {}),
        "knobs": knobs,
    }


def _rules(slices: Sequence[Slice], name: str) -> Iterator[Rule]:
    """Yield the rules of a parameter at all levels of all slices."""
    for part in slices:
        for level in (*(entry.parameters for entry in part.inputs), *part.levels):
            yield from level.get(name, ())


def _searched(knob: Knob, rules: Iterable[Rule]) -> Any:
    """Return what `space.knobs` has for a knob: a range around its numbers, or one number."""
    numbers = sorted({number for rule in rules for number in rule.gradient})
    if knob.kind == "flag":
        return None if len(numbers) > 1 else int(numbers[0] != 0)
    if knob.search is None:
        return numbers[0] if len(numbers) == 1 else [numbers[0], numbers[-1]]
    low = min(number - (abs(number) or _AROUND_ZERO) for number in numbers)
    high = max(number + (abs(number) or _AROUND_ZERO) for number in numbers)
    lowest = min(knob.search[0], numbers[0]) if knob.selects else knob.low
    return [round(float(max(low, lowest)), 6), round(float(min(high, knob.high)), 6)]


def _is_gradient(rules: Iterable[Rule]) -> bool:
    return any(len(rule.gradient) > 1 for rule in rules)


def _carry_groups(slices: Sequence[Slice], rules: Sequence[Rule], parts: SearchParts) -> int | str:
    """Return the layer groups: one for each number over depth, or for each slice."""
    steps = max((len(rule.gradient) for rule in rules), default=1)
    lengths = [len(part.inputs[0].layers) for part in slices]
    if len(slices) > 1 and len({*lengths}) > 1:
        parts.notes.append(
            f"`slices` have {listed(map(str, lengths))} blocks; the {len(slices)} layer groups of "
            "the search are of equal size."
        )
    if len(slices) > 1 and steps > 1:
        parts.notes.append(
            f"the slices have lists of numbers; the search has {len(slices)} x {steps} numbers "
            "over the whole depth."
        )
    groups = len(slices) * steps
    return groups if groups > 1 else "one"


def components_named(rules: Iterable[Rule]) -> tuple[list[str] | str, bool]:
    """Return the components that filters name, and whether some name embeddings or head."""
    patterns = [*dict.fromkeys(rule.pattern for rule in rules if rule.pattern != EVERY)]
    ends = [text for text in patterns if any(word in text for word in _OUTSIDE)]
    found: dict[str, None] = {}
    for pattern in (text for text in patterns if text not in ends):
        component, word = component_of(f"{pattern}.weight")
        if component is None or word != pattern:
            return "each", True
        found[component] = None
    return [*found], bool(ends)
