"""The section `space` of a search file: the search space."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from evomerge.config.fields import KnobRange, Section


class OutsideConfig(Section):
    """The parents that give the embeddings and the head."""

    embeddings: str | None = Field(
        None, description="parent that gives the embeddings; null: the host"
    )
    head: str | None = Field(None, description="parent that gives the head; null: the host")


_PATHS = "kind variant host scales outside"

_KEYS = {
    "parameters": "kind method method_per host groups components embeddings smooth knobs "
    "most_parents",
    "joint": "kind method knobs embeddings host repeats scales ends layers",
    "sakana": f"{_PATHS} layers repeats scale_coding scale_hidden ends start",
    "structured": f"{_PATHS} layers repeats ends",
    "frankenmerge": f"{_PATHS} layers slices",
    "swaps": _PATHS,
    "dropping": f"{_PATHS} layers ends",
}
"""Kind of space, or variant of a data-flow space -> the keys that it uses."""


class SpaceConfig(Section):
    """The section `space`: what is searched, and in which ranges."""

    kind: Literal["parameters", "dataflow", "joint"] = Field(
        "parameters",
        description="parameters: weights of a merge; dataflow: a path through the parents' layers; "
        "joint: both at once",
    )
    method: str | Annotated[list[str], Field(min_length=1)] = Field(
        "task_arithmetic", description="merge method; of a list, the search chooses one"
    )
    method_per: Literal["model", "group"] = Field(
        "model",
        description="of several methods: one for the whole model, or one for each layer group",
    )
    groups: int | Literal["each", "one"] = Field(
        "one", description="layer groups with their own knobs: a number, `each` or `one`"
    )
    components: list[str] | Literal["each"] = Field(
        default_factory=list,
        description="kinds of tensors with their own knobs, e.g. attention; `each`: every tensor",
    )
    embeddings: bool = Field(True, description="own knobs for embeddings and head")
    most_parents: int | None = Field(
        None,
        ge=1,
        description="a pool: a candidate merges at most so many of the parents; null: all of them",
    )
    smooth: bool = Field(False, description="interpolate knobs over depth between groups")
    knobs: dict[str, KnobRange] = Field(
        default_factory=dict, description="a range is searched, a number is fixed"
    )
    variant: Literal["sakana", "structured", "frankenmerge", "swaps", "dropping"] = Field(
        "sakana", description="dataflow: how a genome encodes a path"
    )
    host: str | None = Field(
        None,
        description="parent that gives config and tokenizer; null: the first, or in a parameter "
        "space the base",
    )
    repeats: int | None = Field(
        None,
        ge=1,
        le=16,
        description="how often the parents' layers are laid out as slots; null: 2, joint 1",
    )
    scales: KnobRange = Field(
        (0.5, 1.5),
        description="factor on the hidden state before a layer: a range, or a fixed number",
    )
    scale_coding: Literal["auto", "matrix", "network"] = Field(
        "auto",
        description="sakana: scales by matrix W or network pi_theta; auto: W if it is small",
    )
    scale_hidden: int = Field(8, ge=1, le=64, description="sakana: hidden units of pi_theta")
    ends: Literal["fixed", "free"] = Field(
        "fixed", description="fixed: a path begins and ends with the host's first and last layer"
    )
    start: tuple[float, float] = Field(
        (1.0, -1.0),
        description="sakana: start of indicators [in, out] of the first path, in sigmas",
    )
    layers: tuple[int, int | None] = Field(
        (1, None), description="[min, max] number of layers of a path; null: no limit"
    )
    slices: tuple[int, int] = Field((2, 4), description="frankenmerge: [min, max] number of slices")
    outside: OutsideConfig | None = Field(
        None, description="dataflow: the parents that give embeddings and head; null: the host"
    )

    @field_validator("groups")
    @classmethod
    def _at_least_one_group(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 1 or more, `each` or `one`")
        return value

    @field_validator("layers", "slices")
    @classmethod
    def _in_order(cls, value: tuple[int, int | None]) -> tuple[int, int | None]:
        low, high = value
        if low < 1 or (high is not None and low > high):
            raise ValueError("must be [min, max] with 1 <= min <= max")
        return value

    @model_validator(mode="after")
    def _of_its_kind(self) -> SpaceConfig:
        """Refuse a key with another value than its default that this kind of space does not use."""
        is_path = self.kind == "dataflow"
        allowed = sorted(_KEYS[self.variant if is_path else self.kind].split())
        where = f"`kind` {self.kind!r}" + (f", `variant` {self.variant!r}" if is_path else "")
        for name, value in self.given.items():
            if name not in allowed:
                own = value.model_dump(exclude_none=True) if isinstance(value, Section) else value
                raise ValueError(
                    f"has `{name}` {list(own) if isinstance(own, tuple) else own!r}, which has no "
                    f"meaning for {where}, whose keys are {', '.join(allowed)}; remove it"
                )
        return self

    @property
    def given(self) -> dict[str, Any]:
        """The keys that have another value than their default, with their values."""
        fields = type(self).model_fields
        return {
            name: getattr(self, name)
            for name in sorted(self.model_fields_set)
            if getattr(self, name) != fields[name].get_default(call_default_factory=True)
        }

    @property
    def methods(self) -> tuple[str, ...]:
        """The merge methods, as a tuple even if there is only one."""
        return (self.method,) if isinstance(self.method, str) else tuple(self.method)
