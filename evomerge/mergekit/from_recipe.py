"""Writing a recipe as a mergekit file that makes the same model, if there is one.

Consecutive blocks become one slice if they are also consecutive in all of their parents and have
the same knobs. mergekit merges the embeddings with the first slice and the head with the last one;
if their knobs are others, filters name their tensors, and so become the scales of a path.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import RecipeError
from evomerge.mergekit.into_recipe import BASE_IS_FIRST
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Knob, Method
from evomerge.merging.tensors.plan import Planner, TensorPlan
from evomerge.merging.tokenizers.plan import plan_tokenizer
from evomerge.merging.tokenizers.rows import TRUNCATE, truncate
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import is_from_hub
from evomerge.models.references import split_adapter
from evomerge.parsing.values import replaced
from evomerge.recipe import Layer, Recipe

_IGNORED_KEYS = ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache")


def express(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> str:
    """Return mergekit's YAML for a recipe, given every parent of it by reference.

    Where mergekit's model differs a little, a comment at the top of the file says so.
    RecipeError: mergekit cannot express the recipe; the message says why.
    """
    host = checkpoints[recipe.host]
    if any(map(host.module_of, host.tensors)):
        raise RecipeError(f"mergekit does not merge the modules of {recipe.host!r}.")
    for parent in (checkpoints[name] for name in recipe.parents):
        if parent.lacks:
            raise RecipeError(
                f"mergekit cannot merge the classification heads of {recipe.host!r} and "
                f"{parent.reference!r}."
            )
    methods = sorted({layer.method for layer in recipe.every_layer()})
    if len(methods) > 1:
        raise RecipeError(f"A mergekit file has only one method, not {' and '.join(methods)}.")
    if not get_method(methods[0]).in_mergekit:
        raise RecipeError(f"mergekit has no method {methods[0]!r}.")
    return _Writer(recipe, checkpoints).text()


class _Writer:
    def __init__(self, recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> None:
        self.recipe, self.checkpoints = recipe, checkpoints
        self.host = checkpoints[recipe.host]
        self.method, self.prefix = get_method(recipe.embeddings.method), self._only_stack()
        self.layers = recipe.layers[self.prefix]
        parents, rows = [checkpoints[name] for name in recipe.parents], None
        if recipe.tokenizer != "base":
            rows = plan_tokenizer(recipe, checkpoints).rows
        elif len({parent.vocabulary for parent in parents}) > 1:
            rows, _ = truncate(parents)  # as mergekit does it, if it is told to
        self.planner = Planner(checkpoints, recipe.host, rows)
        self.outside: dict[str, list[TensorPlan]] = {"embeddings": [], "head": []}
        self.blocks: list[list[TensorPlan]] = [[] for _ in self.layers]
        for plan in self.planner.plan(recipe):
            if plan.method is None:  # a copied buffer
                continue
            if plan.name.startswith(f"{self.prefix}."):
                self.blocks[int(plan.name[len(self.prefix) + 1 :].split(".")[0])].append(plan)
            else:
                self.outside[self.host.places[plan.name]].append(plan)
            is_scaled = plan.factor != 1
            if is_scaled and (plan.offset or self.method.name != "passthrough"):
                raise RecipeError("A mergekit file cannot have scales between merged blocks.")
        for outside, block, where, which in (
            (recipe.embeddings, self.layers[0], "embeddings", "first"),
            (recipe.head, self.layers[-1], "head", "last"),
        ):
            if _names(outside) != _names(block):
                raise RecipeError(f"`{where}` has other parents than the {which} block.")

    def text(self) -> str:
        recipe, method, base = self.recipe, self.method, self._base()
        theirs = "ramplus_tl" if method.name == "ramplus" else method.name
        data: dict[str, Any] = {"merge_method": theirs}
        slices = [self._slice(run) for run in self._runs()]
        if len(slices) == 1 and self._whole(base):
            data["models"] = slices[0].pop("sources")
            for model in data["models"]:
                del model["layer_range"]
            data |= slices[0]
        else:
            data["slices"] = slices
        if base is not None:
            data["base_model"] = _reference(self.checkpoints[base])
        data["dtype"] = "float64" if recipe.dtype == "float64" else "float32"
        if recipe.dtype != data["dtype"]:
            data["out_dtype"] = recipe.dtype
        data |= _tokenizer_keys(recipe, self.checkpoints)
        note = "draws other random numbers, from the same distribution" if method.random else ""
        if method.name == "sce":
            note = "weights sources with small changes of a tensor equally"
        text = yaml.safe_dump(data, sort_keys=False, default_flow_style=None, width=100)
        return f"# mergekit {note}.\n{text}" if note else text

    def _only_stack(self) -> str:
        host, layers = self.host, self.recipe.layers
        more = sorted(set(host.stacks) - set(layers)) + sorted(layers)[1:]
        kept = [name for name, place in host.places.items() if place == "kept"]
        if more or kept or not layers:
            raise RecipeError(
                f"The host has several block stacks ({', '.join(host.stacks)}) or another modality."
            )
        return next(iter(layers))

    def _base(self) -> str | None:
        """Return `base_model` of the file, or None. mergekit takes the config from it."""
        recipe, layer = self.recipe, self.recipe.embeddings
        # A base model would change the rows of tokens that some parents do not have.
        by_token = recipe.tokenizer != "base" and not recipe.vocabulary
        changes_rows = by_token and len(recipe.parents) > 2
        if layer.base is not None:
            base = layer.base.parent
        elif self.method.name in BASE_IS_FIRST:
            base = layer.sources[0].parent
        elif self.method.base != "none" or changes_rows:
            self._check_configs()
            return None
        else:
            return recipe.host
        if base != recipe.host:
            raise RecipeError(f"The config is of {recipe.host!r}, but in mergekit of {base!r}.")
        return base

    def _check_configs(self) -> None:
        """Check that the parents' configs do not differ in what counts."""
        ignored = {*_IGNORED_KEYS, *(("vocab_size",) if self.recipe.tokenizer != "base" else ())}
        for name in self.recipe.parents:
            one, other = self.host.config, self.checkpoints[name].config
            if any(one.get(key) != other.get(key) for key in {*one, *other} - ignored):
                raise RecipeError(f"The config of {name!r} is another, and there is no base.")

    def _runs(self) -> list[range]:
        """Return the positions of the blocks of each slice."""
        runs: list[range] = []
        for position in range(len(self.layers)):
            start = runs.pop().start if position and self._continues(position) else position
            runs.append(range(start, position + 1))
        return runs

    def _continues(self, position: int) -> bool:
        """Whether a block belongs to the slice of the one before it."""
        old, new = self.layers[position - 1 : position + 1]
        if _names(old) != _names(new) or old.scale != 1 or new.scale != 1:
            return False
        pairs = zip(old.inputs, new.inputs, strict=True)
        follows = all(two.layer == (one.layer or 0) + 1 for one, two in pairs)
        return follows and self._values(position - 1) == self._values(position)

    def _values(self, position: int) -> dict[str, Any]:
        """Return all knobs of each tensor of a block, to compare blocks."""
        start = len(f"{self.prefix}.{position}.")
        plans = self.blocks[position]
        return {plan.name[start:]: (plan.factor, plan.knobs, plan.merge_knobs) for plan in plans}

    def _whole(self, base: str | None) -> bool:
        """Whether the file can have `models`: one slice with all blocks of every parent."""
        first = self.layers[0]
        for source in first.inputs:
            stack = self.planner.fit(source.parent).stacks[self.prefix]
            if source.layer != 0 or len(stack) != len(self.layers):
                return False
        return self.method.base != "none" or base is None or base in _names(first)

    def _slice(self, run: range) -> dict[str, Any]:
        first = self.layers[run.start]
        blocks = [plan for position in run for plan in self.blocks[position]]
        outside = [*self.outside["embeddings"]] if run.start == 0 else []
        outside += self.outside["head"] if run.stop == len(self.layers) else []

        def parameters(source: int | None) -> dict[str, Any]:
            knobs = _SliceKnobs(self.method, self.prefix, first, blocks, outside, source)
            found = knobs.parameters()
            return {"parameters": found} if found else {}

        sources = [
            {
                "model": _reference(self.checkpoints[source.parent]),
                "layer_range": [source.layer or 0, (source.layer or 0) + len(run)],
                **(parameters(i) if i < len(first.sources) else {}),
            }
            for i, source in enumerate(first.inputs)
        ]
        return {"sources": sources, **parameters(None)}


def _names(layer: Layer) -> list[str]:
    """Return the parents of a layer, and whether the last one is a base, to compare layers."""
    return [source.parent for source in layer.inputs] + [str(layer.base is not None)]


def _reference(checkpoint: Checkpoint) -> str:
    """Return a parent's Hub id if it is in the Hub's cache, or else its path; so of its adapter."""
    model, _, adapter = split_adapter(checkpoint.reference, Path.cwd())
    if not is_from_hub(checkpoint.folder):
        model = str(checkpoint.folder.resolve())
    if checkpoint.adapter is None:
        return model
    if not is_from_hub(checkpoint.adapter):
        adapter = str(checkpoint.adapter.resolve())
    return f"{model}+{adapter}"


def _tokenizer_keys(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Return mergekit's keys `tokenizer` and `chat_template`, as far as they are needed."""
    options = recipe.options
    if TRUNCATE in options:
        raise RecipeError("A mergekit file cannot cut off rows of embeddings.")
    found: dict[str, Any] = {}
    if recipe.tokenizer != "base":
        _check_vocabulary(recipe, checkpoints)
        named = {name: _reference(parent) for name, parent in checkpoints.items()}
        keys = found["tokenizer"] = {"source": named.get(recipe.tokenizer, "union")}
        if "tokens" in options:
            tokens = json.loads(options["tokens"])
            keys["tokens"] = replaced(tokens, lambda value: named.get(value, value))
        if "pad_to_multiple_of" in options:
            keys["pad_to_multiple_of"] = int(options["pad_to_multiple_of"])
    template = options.get("chat_template", "")
    if template in checkpoints:
        template = checkpoints[template].chat_template or ""
    return found | ({"chat_template": template} if template else {})


def _check_vocabulary(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Check that the recipe's `vocabulary` is what its merged parents give without it."""
    ours = plan_tokenizer(recipe, checkpoints)
    if ours.rows is None:
        raise RecipeError("A mergekit file cannot give a tokenizer to a parent that has none.")
    theirs = plan_tokenizer(replace(recipe, vocabulary=()), checkpoints)
    assert theirs.rows is not None
    alike = all(ours.rows.index[name] == index for name, index in theirs.rows.index.items())
    if not alike or ours.files != theirs.files or ours.rows.filling != theirs.rows.filling:
        raise RecipeError("A mergekit file cannot have tokens of parents that it does not merge.")


@dataclass(frozen=True)
class _SliceKnobs:
    """The knobs of one source of a slice, or of the slice as a whole (`source` None).

    `prefix` and `first` are the stack of the slice and its first layer, `blocks` the tensors of all
    its blocks. `outside` are tensors that mergekit merges with it: embeddings with the first slice,
    head with the last.
    """

    method: Method
    prefix: str
    first: Layer
    blocks: Sequence[TensorPlan]
    outside: Sequence[TensorPlan]
    source: int | None

    def parameters(self) -> dict[str, Any]:
        """Return mergekit's `parameters`, without values at their default.

        RecipeError: mergekit has no filters that give every tensor its value.
        """
        per, written = "merge" if self.source is None else "source", {}
        for knob in (knob for knob in self.method.knobs if knob.per == per):
            value = self._parameter(knob)
            if knob.kind == "flag" and isinstance(value, float):
                value = bool(value)
            if knob.name == "weight" or value != knob.default:
                written[knob.name] = value
        return written

    def _parameter(self, knob: Knob) -> Any:
        blocks = [(self._shown(plan), self._value(plan, knob)) for plan in self.blocks]
        outside = [(plan.name, self._value(plan, knob)) for plan in self.outside]
        rules = self._block_rules(knob, blocks)
        rules = [*((name, v) for name, v in outside if _look_up(rules, name) != v), *rules]
        for name, value in (*blocks, *outside):
            if _look_up(rules, name) != value:
                raise RecipeError(f"No filter gives {knob.name!r} of {name!r} its own value.")
        *entries, (_, rest) = rules
        if not entries:
            return rest
        return [*({"filter": pattern, "value": v} for pattern, v in entries), {"value": rest}]

    def _block_rules(
        self, knob: Knob, blocks: Sequence[tuple[str, float]]
    ) -> list[tuple[str, float]]:
        """Return (filter, value) pairs for the tensors of the blocks; "" matches all tensors."""
        values = [value for _, value in blocks]
        common = max(values, key=values.count)
        if all(value == common for value in values):
            return [("", common)]
        knobs = self.first.knobs if self.source is None else self.first.sources[self.source].knobs
        setting = knobs.get(knob.name, ())
        if not isinstance(setting, float) and setting:
            rules = [("" if pattern == "*" else pattern, value) for pattern, value in setting]
            rules += [("", common)] if rules[-1][0] else []
            if all(_look_up(rules, name) == value for name, value in blocks):
                return rules
        depth = len(self.prefix.split(".")) + 1
        suffixes = {f".{name.split('.', depth)[-1]}": value for name, value in blocks}
        longest = sorted(suffixes, key=len, reverse=True)
        return [*((n, suffixes[n]) for n in longest if suffixes[n] != common), ("", common)]

    def _value(self, plan: TensorPlan, knob: Knob) -> float:
        knobs = (plan.merge_knobs or {}) if self.source is None else plan.knobs[self.source]
        return knobs[knob.name] * (plan.factor if knob.name == "scale" else 1.0)

    def _shown(self, plan: TensorPlan) -> str:
        """Return the name of a tensor that mergekit compares filters with."""
        return plan.name if self.source is None else plan.sources[self.source].name


def _look_up(rules: Sequence[tuple[str, float]], name: str) -> float:
    return next(value for pattern, value in rules if pattern in name)
