"""The keys of a mergekit file and the types of their values.

As in mergekit, a mapping may have keys that are not known; `reading` warns of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from evomerge.parsing.values import shown


def _text_keys(data: Any) -> Any:
    for key in data if isinstance(data, dict) else ():
        if not isinstance(key, str):
            raise ValueError(f"has the key {shown(key)}, which is not text; put quotes around it")
    return data


def _reference(value: Any) -> Any:
    if isinstance(value, str) and value:
        return value
    raise ValueError(
        "must be a model reference such as org/name@revision, a folder, or model+adapter"
    )


def _range(value: Any) -> Any:
    match value:
        case [int(first), int(stop)] if bool not in map(type, value) and 0 <= first < stop:
            return first, stop
    raise ValueError("must be [first, one past the last], counted from 0")


_Text: TypeAlias = Annotated[str, Field(min_length=1)]
_Reference: TypeAlias = Annotated[str, BeforeValidator(_reference)]
_Range: TypeAlias = Annotated[tuple[int, int], BeforeValidator(_range)]
_Mapping: TypeAlias = Annotated[dict[str, Any], BeforeValidator(_text_keys)]
_Dtype: TypeAlias = Literal["bfloat16", "float16", "float32", "float64"]


class Keys(BaseModel):
    """A mapping in the file, with the keys that are not known."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise ValueError(f"must be a mapping of {', '.join(cls.model_fields)}")
        return _text_keys(data)


class Part(Keys):
    """A part of the merge that may have parameters, which the method gives a meaning."""

    parameters: _Mapping | None = None


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
        given = [key for key in forms if getattr(self, key) is not None]
        if len(given) != 1:
            got = " and ".join(given) or "none of them"
            raise ValueError(f"needs exactly one of {', '.join(forms)}; got {got}")
        return self


class TokenizerKeys(Keys):
    """Where the vocabulary and the rows of its tokens come from."""

    source: _Text = "union"
    tokens: _Mapping | None = None
    pad_to_multiple_of: int | None = Field(None, ge=1, le=2**20)


class FileKeys(ModuleKeys):
    """The whole file, in any of its forms."""

    merge_method: _Text
    modules: Annotated[dict[str, ModuleKeys], BeforeValidator(_text_keys)] | None = Field(
        None, min_length=1
    )
    base_model: _Reference | None = None
    dtype: _Dtype | None = None
    out_dtype: _Dtype | None = None
    tokenizer_source: _Text | None = None
    tokenizer: TokenizerKeys | None = None
    chat_template: _Text | None = None
