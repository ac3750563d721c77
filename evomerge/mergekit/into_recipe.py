"""A mergekit file becomes a recipe, given the parents it names.

How mergekit spreads a file over tensors was found by measuring (docs/recipes.md):

- A parameter is looked up in the source, its slice, its module, then the whole file; where no
  filter matches, the next level is asked.
- A gradient runs over the blocks of its slice. A slice of one block, as its last block, gets the
  last number. What lies outside of the blocks gets the first number.
- Embeddings are made as the first slice says, final norm and head as the last one says.
- Filters of a source are compared with the source's own tensor names, filters of the merge with
  those of the merged model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evomerge.errors import RecipeError, did_you_mean
from evomerge.merge.methods import get_method
from evomerge.merge.methods.method import Knob as Declared
from evomerge.merge.methods.method import Method
from evomerge.mergekit.file import MAIN, Input, MergekitFile, Module, Slice, read
from evomerge.mergekit.values import EVERY, Rule, Rules, resolve
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import Fit
from evomerge.recipe import DTYPES, Knob, Layer, Recipe, Source

BASE_IS_FIRST = ("slerp",)
"""Methods without a base of their own that take mergekit's `base_model` as their first source."""

_STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def mergekit_parents(text: str) -> tuple[str, ...]:
    """Return every model that a mergekit file names, the one that gives the config first.

    Raises:
        RecipeError: the file is not a mergekit file that can be honoured.
    """
    return read(text).parents


def from_mergekit(text: str, checkpoints: Mapping[str, Checkpoint]) -> Recipe:
    """Return the recipe that a mergekit file stands for.

    Args:
        text: mergekit's YAML in any of its forms (`models`, `slices`, `modules`).
        checkpoints: the parents that `mergekit_parents` names, by reference.

    Raises:
        RecipeError: something in the file cannot be honoured; the message names the key.
    """
    return _Resolver(read(text), checkpoints).recipe()


@dataclass(frozen=True)
class _Part:
    """Sources of one slice, sorted into merged ones and base."""

    slice: Slice
    sources: tuple[Input, ...]
    base: Input | None


class _Resolver:
    def __init__(self, file: MergekitFile, checkpoints: Mapping[str, Checkpoint]) -> None:
        self.file = file
        self.method: Method = get_method(file.method)
        self.checkpoints = checkpoints
        self.host = checkpoints[file.parents[0]]
        self._fits = {name: Fit(self.host, item) for name, item in checkpoints.items()}

    def recipe(self) -> Recipe:
        layers: dict[str, tuple[Layer, ...]] = {}
        first: Layer | None = None
        for module in self.file.modules:
            for prefix in self._stacks(module):
                parts = [self._part(module, item, prefix) for item in module.slices]
                blocks: list[Layer] = []
                for part in parts:
                    blocks += self._blocks(module, part, prefix, len(blocks))
                layers[prefix] = tuple(blocks)
                first = first or self._outside(module, parts[0], "embeddings")
                last = self._outside(module, parts[-1], "head")
        assert first is not None
        return Recipe(
            host=self.file.parents[0],
            layers=layers,
            embeddings=first,
            head=last,
            dtype=self.file.dtype or self._host_dtype(),
            tokenizer=self._tokenizer(),
            options=self.file.options,
        )

    def _stacks(self, module: Module) -> tuple[str, ...]:
        language = self.host.language
        if module.name in (None, MAIN):
            if module.whole:
                named = {item.model for part in module.slices for item in part.inputs}
                shared = [p for p in language if all(p in self._fits[m].stacks for m in named)]
                main = self.host.main.prefix
                return tuple(sorted(shared, key=lambda prefix: prefix == main))
            if len(language) > 1:
                raise RecipeError(
                    f"`slices` is not enough for {self.host.reference!r}, which has the block "
                    f"stacks {', '.join(language)}; give each under `modules`."
                )
            return (self.host.main.prefix,)
        found = [prefix for prefix in language if str(module.name) in prefix]
        if len(found) != 1:
            raise RecipeError(
                f"`modules.{module.name}` must be part of the name of exactly one block stack of "
                f"{self.host.reference!r}; it has {', '.join(language)}."
                f"{did_you_mean(str(module.name), language)}"
            )
        return tuple(found)

    def _part(self, module: Module, item: Slice, prefix: str) -> _Part:
        """Give every input its blocks, and find the base among the inputs."""
        base = item.base or self.file.base
        inputs = list(item.inputs)
        named = base in [entry.model for entry in inputs]
        if module.whole and base and not named and self.method.base != "none":
            inputs.insert(0, Input(base, None, {}, "base_model"))
        whole = [self._with_range(entry, prefix) for entry in inputs]
        lengths = {entry.model: _length(entry) for entry in whole}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"{count} of {name}" for name, count in lengths.items())
            raise RecipeError(
                f"`{item.where}` merges blocks one by one and its models have different numbers "
                f"of them: {told}; give each a `layer_range` of the same length under `slices`."
            )
        if self.method.base != "none":
            return self._split(item, whole, base)
        if base and not named and (module.whole or self.method.name in BASE_IS_FIRST):
            raise RecipeError(
                f"`base_model` is {base!r}, which is not among the models of `{item.where}`; "
                f"{self.method.name} uses no other base, so list it there or leave it out."
            )
        if self.method.name in BASE_IS_FIRST:
            if base is None:
                raise RecipeError(
                    f"`base_model` is missing; {self.method.name} starts from it at t = 0."
                )
            whole.sort(key=lambda entry: entry.model != base)
        return _Part(item, tuple(whole), None)

    def _split(self, item: Slice, inputs: list[Input], base: str | None) -> _Part:
        found = [entry for entry in inputs if entry.model == base]
        if base and len(found) != 1:
            told = "is not among" if not found else "stands more than once among"
            raise RecipeError(
                f"`base_model` {base!r} {told} the sources of `{item.where}`; list it once there, "
                f"with its `layer_range`, because {self.method.name} needs its blocks."
            )
        for entry in found:
            for name in entry.parameters:
                raise RecipeError(
                    f"`{entry.where}.parameters.{name}` would change nothing: {base!r} is the "
                    f"base model, which has no parameters in {self.method.name}; remove it."
                )
        sources = tuple(entry for entry in inputs if entry.model != base)
        return _Part(item, sources, found[0] if found else None)

    def _with_range(self, entry: Input, prefix: str) -> Input:
        stack = self._fits[entry.model].stacks.get(prefix)
        if stack is None:
            raise RecipeError(f"`{entry.where}`: {entry.model!r} has no blocks {prefix!r}.")
        start, stop = entry.layers or (0, len(stack))
        if stop > len(stack):
            raise RecipeError(
                f"`{entry.where}.layer_range` is [{start}, {stop}]; {entry.model!r} has "
                f"{len(stack)} blocks."
            )
        return Input(entry.model, (start, stop), entry.parameters, entry.where)

    def _blocks(self, module: Module, part: _Part, prefix: str, begin: int) -> Iterator[Layer]:
        """Make the layers of a slice whose first is block `begin` of the merged model."""
        count = _length(part.sources[0]) if part.sources else 0
        stack = self.host.stacks[prefix]
        for i in range(count):
            depth = i / (count - 1) if count > 1 else 1.0
            lead = part.sources[0]
            rests = self._fits[lead.model].block(prefix, _start(lead) + i)
            merged = {rest: stack.name(begin + i, rest) for rest in rests}

            def shown(entry: Input, i: int = i, merged: dict[str, str] = merged) -> dict[str, str]:
                fit = self._fits[entry.model]
                return {
                    name: fit.inside(prefix, _start(entry) + i, rest) or name
                    for rest, name in merged.items()
                }

            yield self._layer(module, part, depth, list(merged.values()), shown, i)

    def _outside(self, module: Module, part: _Part, place: str) -> Layer:
        names = [name for name, found in self.host.places.items() if found == place]

        def shown(entry: Input) -> dict[str, str]:
            return {name: self._fits[entry.model].outside.get(name, name) for name in names}

        return self._layer(module, part, 0.0, names, shown, None)

    def _layer(
        self,
        module: Module,
        part: _Part,
        depth: float,
        names: list[str],
        shown: Callable[[Input], dict[str, str]],
        block: int | None,
    ) -> Layer:
        levels = [part.slice.parameters, module.parameters, self.file.parameters]

        def source(entry: Input, *, knobs: bool = True) -> Source:
            layer = None if block is None else _start(entry) + block
            if not knobs:
                return Source(entry.model, layer)
            self._check_names(entry.parameters, "source", f"{entry.where}.parameters")
            own = self._knobs("source", [entry.parameters, *levels], depth, shown(entry))
            return Source(entry.model, layer, own)

        for level, where in zip(
            levels, (f"{part.slice.where}.parameters", "parameters", "parameters"), strict=True
        ):
            self._check_names(level, None, where)
        return Layer(
            self.method.name,
            tuple(source(entry) for entry in part.sources),
            source(part.base, knobs=False) if part.base else None,
            self._knobs("merge", levels, depth, {name: name for name in names}),
        )

    def _check_names(self, parameters: Mapping[str, Rules], per: str | None, where: str) -> None:
        known = {knob.name: knob for knob in self.method.knobs}
        for name in parameters:
            knob = known.get(name)
            if knob is None:
                raise RecipeError(
                    f"`{where}.{name}`: {self.method.name} has no such parameter; it has "
                    f"{', '.join(known) or 'none'}.{did_you_mean(name, known)}"
                )
            if per and knob.per != per:
                raise RecipeError(
                    f"`{where}.{name}` belongs to the merge as a whole; give it in `parameters` "
                    "of the slice, the module or the file."
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
        self, knob: Declared, rules: list[Rule], depth: float, names: Mapping[str, str]
    ) -> Knob:
        # mergekit has no default weight: a filter that leaves a tensor without one is an error.
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
        return _STORED.get(stored, "bfloat16")

    def _tokenizer(self) -> str:
        """`base` without a tokenizer key keeps rows as they are; with one, tokens are matched."""
        wanted = self.file.tokenizer
        if wanted is None:
            return "base"
        return self.file.parents[0] if wanted == "base" else wanted


def _start(entry: Input) -> int:
    assert entry.layers is not None
    return entry.layers[0]


def _length(entry: Input) -> int:
    assert entry.layers is not None
    return entry.layers[1] - entry.layers[0]
