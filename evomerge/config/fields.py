"""Fields of a search file: sections, types of values, and the kinds that fill a section.

One key of some sections names a kind, as `optimizer.name` does. The kind is a class whose fields
are the keys of the section, with their ranges and docstrings, so that messages, `evomerge schema`
and the reference page come from it. It stands beside what it makes, in a room above this one. So it
is looked up by name, like the kinds that other packages add.
"""

import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import InitErrorDetails, core_schema

from evomerge.errors import InputError
from evomerge.registry import Registry, imported

Rule: TypeAlias = tuple[Callable[[Any], object], str]
"""What breaks it, given the section, and the sentence about that (`{0.key}`: a value of it)."""


class UnknownKeyError(ValueError):
    """A key that its section does not have; pydantic's own error does not say which are allowed."""

    def __init__(self, key: str, allowed: list[str]) -> None:
        super().__init__(key, allowed)
        self.key, self.allowed = key, allowed


class BrokenRuleError(ValueError):
    """A rule of a section is broken; the message is the sentence about it."""


def _in_one_line(schema: dict[str, Any]) -> None:
    """Write the description of each key, the docstring below it, in one line."""
    for key in schema.get("properties", {}).values():
        if "description" in key:
            key["description"] = " ".join(key["description"].split())


class Section(BaseModel):
    """A mapping of keys; an unknown key is an error, and so is the first rule that is broken.

    The context of pydantic has sentences of broken rules that were told already.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=_in_one_line,
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @property
    def every_rule(self) -> tuple[Rule, ...]:
        """The rules that this section must keep."""
        return self.rules

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) else ():
            if key not in cls.model_fields:
                raise UnknownKeyError(str(key), [*cls.model_fields])
        return data

    @model_validator(mode="after")
    def _keeps_the_rules(self, info: ValidationInfo) -> Self:
        for is_broken, words in self.every_rule:
            if is_broken(self) and (sentence := words.format(self)) not in (info.context or ()):
                raise BrokenRuleError(sentence)
        return self


Documents = Annotated[int, Field(ge=1, le=10**9)] | Literal["all"]


def _path(value: str) -> str:
    try:
        names = os.fsencode(value).split(b"/")
    except UnicodeEncodeError:  # a half of a pair
        names = [b"\0"]
    if any(b"\0" in name or len(name) > _LONGEST_NAME for name in names):
        raise ValueError(
            f"must be a path of valid text, with names of at most {_LONGEST_NAME} bytes and no NUL"
        )
    return value


_LONGEST_NAME = 255  # bytes, of a file or folder

FilePath = Annotated[str, AfterValidator(_path)]


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def _range(value: Any) -> Any:
    if _is_finite(value):
        return float(value)
    if (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(_is_finite(item) and not isinstance(item, bool) for item in value)
        and value[0] < value[1]
    ):
        return (float(value[0]), float(value[1]))
    raise ValueError("must be a number (fixed) or a range [low, high] with low < high (searched)")


KnobRange = Annotated[float | tuple[float, float], BeforeValidator(_range)]


class Kind(Section):
    """One way to fill a section of the search file.

    Attributes:
        about: one line, for `evomerge list` and the reference.
        packages: names of the packages whose versions may change its results.
    """

    about: ClassVar[str] = ""
    packages: ClassVar[tuple[str, ...]] = ()


_BY_ITSELF = core_schema.plain_serializer_function_ser_schema(
    lambda section, info: section.model_dump(
        mode=info.mode, exclude_unset=info.exclude_unset, exclude_none=info.exclude_none
    ),
    info_arg=True,
)


@dataclass(frozen=True)
class Names:
    """Annotates a key whose schema lists the names that it can have, with what packages add.

        method: Annotated[str, Names("evomerge.merging.methods:method_names")]

    Attributes:
        function: `module:function` that returns them, which is imported for the schema.
    """

    function: str

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "examples": [*imported(self.function)()]}


@dataclass(frozen=True)
class OfKind:
    """Annotates a field of the search file: a section that is parsed by the kind it names.

        optimizer: Annotated[OptimizerConfig, OfKind(OPTIMIZER_KINDS, "name", "auto")]

    A key of another built-in kind is dropped if it has its default, as in a search file with all
    defaults; else it is a mistake.

    Attributes:
        kinds: the kinds by name.
        tag: the key that names the kind.
        default: the kind of a section that names none.
    """

    kinds: Registry[type[Kind]]
    tag: str
    default: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            lambda section, info: self.parse(section, info.context),
            serialization=_BY_ITSELF,
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        kinds = dict.fromkeys(map(self.kinds.get, self.kinds.names()))
        return {"anyOf": [handler(kind.__pydantic_core_schema__) for kind in kinds]}

    def parse(self, data: Any, context: Any = None) -> Kind:
        """Return a section; pydantic's ValidationError: it has a mistake."""
        if isinstance(data, Kind):
            return data
        if not isinstance(data, Mapping):
            return self.kinds.get(self.default).model_validate(data, context=context)
        name = data.get(self.tag, self.default)
        try:
            kind = self.kinds.get(name if isinstance(name, str) else "")
        except InputError:
            if name in self.kinds.names():  # its package cannot be imported
                raise
            raise self.unknown(self.tag, name, self.kinds.names()) from None
        own = self._without_foreign(data, kind, name, context or ())
        return kind.model_validate(own, context=context)

    def _without_foreign(
        self, data: Mapping[str, Any], kind: type[Kind], name: Any, sentences: Collection[str]
    ) -> dict[str, Any]:
        """Return the section without the keys of other kinds.

        One that has another value than its default is a mistake, unless `sentences` has it already.
        """
        own = dict[str, Any]()
        for key, value in data.items():
            others = () if key in kind.model_fields else self.kinds.builtin
            owners = {
                other: fields[key].get_default(call_default_factory=True)
                for other in others
                if key in (fields := self.kinds.get(other).model_fields)
            }
            if not owners:
                own[key] = value
            elif value not in owners.values():
                fix = f", or set `{self.tag}` to {next(iter(owners))}" if len(owners) == 1 else ""
                where = f"where `{self.tag}` is {name!r}"
                sentence = f"has `{key}`, which has no effect {where}; remove it{fix}"
                if sentence not in sentences:
                    error = {"error": BrokenRuleError(sentence)}
                    raise self.wrong("value_error", (), data, error)
        return own

    def unknown(self, tag: str, name: Any, names: Collection[str]) -> ValidationError:
        """Return the error about a name of a kind that is none of some names."""
        *others, last = map(repr, names)
        allowed = {"expected": f"{', '.join(others)} or {last}"}
        return self.wrong("literal_error", (tag,), name, allowed)

    def wrong(
        self, error: str, place: tuple[str, ...], value: Any, context: dict[str, Any]
    ) -> ValidationError:
        """Return an error of a type that pydantic knows."""
        details = InitErrorDetails(type=error, loc=place, input=value, ctx=context)
        return ValidationError.from_exception_data(type(self).__name__, [details])
