"""Kinds: the ways to fill a section of the search file, each with its own keys.

One key of such a section names its kind, as `optimizer.name` does. The kind is a class whose fields
are the keys of the section, with their ranges and docstrings, so that messages, `evomerge schema`
and the reference page come from it. It stands beside what it makes, in a room above this one. So it
is looked up by name, like the kinds that other packages add.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, ClassVar

from pydantic import GetJsonSchemaHandler, TypeAdapter, ValidationError
from pydantic_core import InitErrorDetails, core_schema

from evomerge.config.fields import BrokenRuleError, Section
from evomerge.errors import InputError
from evomerge.registry import Registry


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
class OneOf:
    """Annotates a field of the search file: a section of one of some kinds, none of them added.

        space: Annotated[SpaceKind, OneOf("evomerge.space.kinds:AnySpace")]

    Attributes:
        name: `module:NAME` of the union of the kinds, which is imported at the first use.
    """

    name: str

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> core_schema.CoreSchema:
        return core_schema.with_info_plain_validator_function(
            lambda section, info: self.parse(section, info.context), serialization=_BY_ITSELF
        )

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return handler(_union(self.name).core_schema)

    def parse(self, data: Any, context: Any = None) -> Any:
        """Return a section; pydantic's ValidationError: it has a mistake."""
        return _union(self.name).validate_python(data, context=context)


@cache
def _union(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(imported(name))


def imported(name: str) -> Any:
    """Return the object that `module:NAME` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


@dataclass(frozen=True)
class OfKind:
    """Annotates a field of the search file: a section that is parsed by the kind it names.

        optimizer: Annotated[OptimizerKind, OfKind(OPTIMIZERS, "name", "auto")]

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
            *others, last = map(repr, self.kinds.names())
            allowed = {"expected": f"{', '.join(others)} or {last}"}
            raise self._wrong("literal_error", (self.tag,), name, allowed) from None
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
                    raise self._wrong("value_error", (), data, error)
        return own

    def _wrong(
        self, error: str, place: tuple[str, ...], value: Any, context: dict[str, Any]
    ) -> ValidationError:
        details = InitErrorDetails(type=error, loc=place, input=value, ctx=context)
        return ValidationError.from_exception_data(type(self).__name__, [details])
