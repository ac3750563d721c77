"""The base class of the sections of a search file, and types of values with their checks."""

import os
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    model_validator,
)

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
