"""The section `space` of a search file: what is searched."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from evomerge.config.fields import KnobRange, Section


class OutsideConfig(Section):
    """Which parents give what is not a layer."""

    embeddings: str | None = None
    head: str | None = None


class SpaceConfig(Section):
    """What is searched."""

    kind: Literal["parameters", "dataflow", "joint"] = "parameters"
    method: str | list[str] = Field(
        "task_arithmetic", description="merge method; a list makes it a gene"
    )
    groups: int | Literal["each", "one"] = Field(
        "one", description="layer groups with knobs of their own: a number, `each` or `one`"
    )
    components: list[str] = Field(
        default_factory=list, description="tensor groups with knobs of their own, e.g. attention"
    )
    embeddings: bool = Field(True, description="knobs of their own for embeddings and head")
    smooth: bool = Field(False, description="interpolate knobs over depth between groups")
    knobs: dict[str, KnobRange] = Field(
        default_factory=dict, description="a range is searched, a number is fixed"
    )
    variant: Literal["sakana", "structured", "frankenmerge", "swaps", "dropping"] = Field(
        "sakana", description="dataflow: how a path is coded"
    )
    host: str | None = Field(
        None, description="dataflow, joint: parent that gives config and ends; null: the first"
    )
    repeats: int | None = Field(
        None, ge=1, le=16, description="how often the layers are laid out; null: 2, joint 1"
    )
    scales: KnobRange = Field(
        (0.5, 1.5), description="factor on the hidden state at a hop: a range, or a fixed number"
    )
    scale_coding: Literal["auto", "matrix", "network"] = Field(
        "auto", description="sakana: W, pi_theta, or W where it is small enough"
    )
    scale_hidden: int = Field(8, ge=1, le=64, description="sakana: hidden units of pi_theta")
    ends: Literal["fixed", "free"] = Field(
        "fixed", description="whether the host's first and last layer stay the ends"
    )
    start: tuple[float, float] = Field(
        (1.0, -1.0), description="sakana: [in, out], where indicators start, in sigmas"
    )
    layers: tuple[int, int | None] = Field(
        (1, None), description="[min, max] layers of a path; null is no limit"
    )
    slices: tuple[int, int] = Field((2, 4), description="frankenmerge: [min, max] slices")
    outside: OutsideConfig | None = Field(
        None, description="dataflow: which parents give embeddings and head; null: the host"
    )

    @field_validator("groups")
    @classmethod
    def _at_least_one_group(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 1 or more, `each` or `one`")
        return value

    @property
    def methods(self) -> tuple[str, ...]:
        """The merge methods, one or several."""
        return (self.method,) if isinstance(self.method, str) else tuple(self.method)
