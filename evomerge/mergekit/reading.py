"""Reading a mergekit file: its keys are checked, and all its forms become modules with slices.

As in mergekit, an unknown key changes nothing, and a warning says so. But a misspelt parameter is
an error, since mergekit would merge with its default without a word.
"""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from evomerge.config.messages import sentence
from evomerge.errors import RecipeError, did_you_mean
from evomerge.mergekit.values import Rules, read_rules
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Method
from evomerge.parsing.texts import yaml_mapping
from evomerge.parsing.values import shown
from evomerge.recipe import Dtype


def _reference(value: Any) -> Any:
    if isinstance(value, str) and value:
        return value
    raise ValueError("must be a model reference: org/name@revision, a folder, or model+adapter")


def _range(value: Any) -> Any:
    match value:
        case [int(first), int(stop)] if bool not in map(type, value) and 0 <= first < stop:
            return range(first, stop)
    raise ValueError("must be [first, one past the last], counted from 0")


_Text: TypeAlias = Annotated[str, Field(min_length=1)]
_Reference: TypeAlias = Annotated[str, BeforeValidator(_reference)]
_Range: TypeAlias = Annotated[range, BeforeValidator(_range)]


class Keys(BaseModel):
    """A mapping in the file, with the keys that are not known."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True, arbitrary_types_allowed=True)

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError(f"must be a mapping of {', '.join(cls.model_fields)}")
        return data


class Part(Keys):
    """A part of the merge that may have parameters."""

    parameters: dict[str, Any] | None = None


class ModelKeys(Part):
    """A model of which all blocks are merged."""

    model: _Reference


class SourceKeys(ModelKeys):
    """A model in a slice; its blocks are from the first number to before the second."""

    layer_range: _Range | None = None


class SliceKeys(Part):
    """A range of blocks of the merged model."""

    sources: list[SourceKeys] = Field(min_length=1)
    base_model: _Reference | None = None


class ModuleKeys(Part):
    """A block stack of the merged model: whole models, or slices of them."""

    models: list[ModelKeys] | None = Field(None, min_length=1)
    slices: list[SliceKeys] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        forms = [key for key in ("models", "slices", "modules") if key in type(self).model_fields]
        forms_used = [key for key in forms if getattr(self, key) is not None]
        if len(forms_used) != 1:
            got = " and ".join(forms_used) or "none of them"
            raise ValueError(f"needs exactly one of {', '.join(forms)}; got {got}")
        return self


class TokenizerKeys(Keys):
    """Where the vocabulary and the rows of its tokens come from."""

    source: _Text = "union"
    tokens: dict[str, Any] | None = None
    pad_to_multiple_of: int | None = Field(None, ge=1, le=2**20)


class FileKeys(ModuleKeys):
    """The whole file, in any of its forms."""

    merge_method: _Text
    modules: dict[str, ModuleKeys] | None = Field(None, min_length=1)
    base_model: _Reference | None = None
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: _Text | None = None
    tokenizer: TokenizerKeys | None = None
    chat_template: _Text | None = None


@dataclass(frozen=True)
class Input:
    """A model in a slice: its blocks (empty: all) and its parameters that have an effect.

    `where` is its address in the file.
    """

    model: str
    layers: range
    parameters: Mapping[str, Rules]
    where: str


@dataclass(frozen=True)
class Slice:
    """A range of blocks of the merged model, with the models that it is merged from.

    Attributes:
        base: the slice's base model, or else the file's.
        levels: parameters of slice, module and file; the first that has one decides.
        whole: whether the file has `models`, of which all blocks are merged, and not `slices`.
    """

    inputs: tuple[Input, ...]
    base: str | None
    levels: tuple[Mapping[str, Rules], ...]
    where: str
    whole: bool


@dataclass(frozen=True)
class MergekitFile:
    """A mergekit file: its keys, its method, and the slices of each module.

    The name of the module is None if the file has no `modules`.
    """

    keys: FileKeys
    method: Method
    modules: Mapping[str | None, tuple[Slice, ...]]

    @property
    def tokenizer(self) -> str | None:
        """`base`, `union`, a model, or None if the file does not set it."""
        keys = self.keys.tokenizer
        return keys.source if keys else self.keys.tokenizer_source

    @property
    def parents(self) -> tuple[str, ...]:
        """All models that the file names; the first one gives the config."""
        named = [self.keys.base_model]
        for part in (part for slices in self.modules.values() for part in slices):
            named += [part.base, *(item.model for item in part.inputs)]
        if self.tokenizer not in ("base", "union"):
            named.append(self.tokenizer)
        return tuple(dict.fromkeys(filter(None, named)))


def read(text: str, doubts: list[str] | None = None) -> MergekitFile:
    """Read and check a mergekit file; RecipeError: a key is missing, or a value is wrong."""
    data = yaml_mapping(text, "The mergekit file", "a mergekit file", RecipeError)
    try:
        keys = FileKeys.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        keys_there = first["input"] if first["type"] == "missing" else ()
        near = (did_you_mean(key, [str(first["loc"][-1])]) for key in keys_there)
        hint = next(filter(None, near), "")
        raise RecipeError(f"The mergekit file: {sentence(error, data)}{hint}") from None
    if keys.tokenizer_source is not None and keys.tokenizer is not None:
        raise RecipeError("Give either `tokenizer_source` or `tokenizer`, not both.")
    return _Reader(keys, [] if doubts is None else doubts).file()


def _check_spelling(name: str, known: Iterable[str], where: str) -> None:
    """Raise a `RecipeError` if an unknown name is nearly a known one: `wieght`, `weights`."""
    alike = [item for item in known if item[0] == name[:1]]  # `scale` is not `rescale`
    for near in difflib.get_close_matches(name, alike, n=1, cutoff=0.8):
        raise RecipeError(
            f"{shown(name)} in `{where or 'the mergekit file'}` is nearly {near!r}, and would be "
            f"ignored; write {near!r}, or remove it."
        )


class _Reader:
    def __init__(self, keys: FileKeys, doubts: list[str]) -> None:
        self.keys, self.doubts = keys, doubts
        self.method = get_method(keys.merge_method)

    def file(self) -> MergekitFile:
        keys, top = self.keys, self._parameters(self.keys, "")
        if keys.tokenizer:
            self._warn_of_unknown(keys.tokenizer, "tokenizer", ())
        modules: dict[str | None, tuple[Slice, ...]] = {}
        for name, module in (keys.modules or {}).items():
            levels = (self._parameters(module, f"modules.{name}"), top)
            modules[name] = self._slices(module, f"modules.{name}.", levels)
        return MergekitFile(keys, self.method, modules or {None: self._slices(keys, "", (top,))})

    def _slices(self, keys: ModuleKeys, prefix: str, levels: tuple[Any, ...]) -> tuple[Slice, ...]:
        base = self.keys.base_model
        if keys.models is not None:
            where = f"{prefix}models"
            return (Slice(self._models(keys.models, where), base, levels, where, whole=True),)
        slices = []
        for i, part in enumerate(keys.slices or ()):
            where = f"{prefix}slices[{i}]"
            inputs = tuple(
                self._input(source, f"{where}.sources[{k}]", source.layer_range)
                for k, source in enumerate(part.sources)
            )
            own = (self._parameters(part, where), *levels)
            slices.append(Slice(inputs, part.base_model or base, own, where, whole=False))
        for item in (item for part in slices for item in part.inputs if not item.layers):
            self.doubts.append(
                f"`{item.where}.layer_range` is missing, so all blocks are taken; give it as "
                "[first, one past the last], counted from 0."
            )
        return tuple(slices)

    def _input(self, keys: ModelKeys, where: str, layers: range | None = None) -> Input:
        own = self._parameters(keys, where, source=True)
        return Input(keys.model, layers or range(0), own, where)

    def _models(self, models: Sequence[ModelKeys], where: str) -> tuple[Input, ...]:
        """Return the inputs of a part of the file without slices, each model once."""
        found: dict[str, Input] = {}
        for i, keys in enumerate(models):
            item = self._input(keys, f"{where}[{i}]")
            first = found.setdefault(item.model, item)
            twice = f"`{where}` names {item.model!r} twice"
            if first.parameters != item.parameters:
                raise RecipeError(f"{twice}, with different parameters; name each model once.")
            if first is not item:
                self.doubts.append(f"{twice}, and it is merged once; name each model once.")
        return tuple(found.values())

    def _warn_of_unknown(self, keys: Keys, where: str, parameters: Iterable[str]) -> None:
        known, inside = type(keys).model_fields, f" in `{where}`" if where else ""
        for key in keys.model_extra or ():
            _check_spelling(key, {"parameters"} & {*known}, where)
            fix = "move it to `parameters`" if key in parameters else "remove it"
            fix = f"{fix}.{did_you_mean(key, known)}"
            self.doubts.append(f"Key {shown(key)}{inside} is ignored, as in mergekit; {fix}")

    def _parameters(self, part: Part, where: str, *, source: bool = False) -> dict[str, Rules]:
        """Return the parameters of a part that have an effect; warn of what is ignored in it."""
        known = {knob.name: knob for knob in self.method.knobs}
        self._warn_of_unknown(part, where, known)
        where = f"{where}.parameters" if where else "parameters"
        counting = {}
        for name, value in (part.parameters or {}).items():
            knob = known.get(name)
            if knob is None:
                _check_spelling(name, known, where)
                have = ", ".join(known) or "none"
                why = f"{self.method.name} has no such parameter (it has {have}); remove it."
            elif source and knob.per == "merge":
                fix = "give it in `parameters` of the slice, the module or the file."
                why = f"it belongs to the merge as a whole; {fix}"
                if knob.default is None and name not in (self.keys.parameters or {}):
                    raise RecipeError(f"`{where}.{name}` belongs to the merge as a whole; {fix}")
            elif knob.low == knob.high:
                why = f"it is always {knob.low:g} in {self.method.name}; remove it."
            else:
                counting[name] = value
                continue
            self.doubts.append(f"`{where}.{name}` is ignored, as in mergekit, since {why}")
        return {name: read_rules(value, f"{where}.{name}") for name, value in counting.items()}
