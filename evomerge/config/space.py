"""The section `space` of a search file: the search space, with a class for each kind."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from evomerge.config.fields import KnobRange, Section
from evomerge.errors import listed
from evomerge.parsing.values import shown


def _above_zero(value: float | tuple[float, float]) -> float | tuple[float, float]:
    if (value if isinstance(value, float) else value[0]) <= 0.0:
        raise ValueError("must be a number or [low, high] above 0, for example [0.5, 1.5]")
    return value


def _in_order(value: tuple[int, int | None]) -> tuple[int, int | None]:
    low, high = value
    if low < 1 or (high is not None and low > high):
        raise ValueError("must be [min, max] with 1 <= min <= max")
    return value


Repeats = Annotated[
    int, Field(ge=1, le=16, description="how often the parents' layers are laid out as slots")
]
Scales = Annotated[
    KnobRange,
    AfterValidator(_above_zero),
    Field(description="factor on the hidden state before a layer: a range, or a fixed number"),
]
Ends = Annotated[
    Literal["fixed", "free"],
    Field(description="fixed: a path begins and ends with the host's first and last layer"),
]
Layers = Annotated[
    tuple[int, int | None],
    AfterValidator(_in_order),
    Field(description="[min, max] number of layers of a path; null: no limit"),
]


class _SpaceConfig(Section):
    """What all kinds of spaces have."""

    kind: str
    host: str | None = None
    """parent that gives config and tokenizer; null: the first, or in a parameter space the base"""

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, data: Any) -> Any:
        """Refuse the keys of other kinds."""
        keys, section = cls.model_fields, data if isinstance(data, Mapping) else {}
        tags = (tag for tag in ("kind", "variant") if tag in keys)
        kind = ", ".join(f"`{tag}` {section.get(tag)!r}" for tag in tags)
        if others := sorted(section.keys() & _KEYS - keys.keys()):
            it = "it" if len(others) == 1 else "them"
            raise ValueError(
                f"has {listed(f'`{key}` {shown(section[key])}' for key in others)}, without "
                f"meaning for {kind}, whose keys are {', '.join(sorted(keys))}; remove {it}"
            )
        return data


class ParametersConfig(_SpaceConfig):
    """A parameter space."""

    kind: Literal["parameters"] = "parameters"
    """parameters: weights of a merge"""
    method: str | Annotated[list[str], Field(min_length=1)] = "task_arithmetic"
    """merge method; of a list, the search chooses one"""
    embeddings: bool = True
    """own knobs for embeddings and head"""
    knobs: dict[str, KnobRange] = Field({})
    """a range is searched, a number is fixed"""
    method_per: Literal["model", "group"] = "model"
    """of several methods: one for the whole model, or one for each layer group"""
    groups: int | Literal["each", "one"] = "one"
    """layer groups with their own knobs: a number, `each` or `one`"""
    components: list[str] | Literal["each"] = Field([])
    """kinds of tensors with their own knobs, e.g. attention; `each`: every tensor; vision,
    projector and audio are the host's unless they are named"""
    most_parents: int | None = Field(None, ge=1)
    """a pool: a candidate merges at most so many of the parents; null: all of them; 1 with one
    parent: how far to go to it from the base"""
    smooth: bool = False
    """interpolate knobs over depth between groups"""

    @property
    def methods(self) -> tuple[str, ...]:
        """The merge methods, as a tuple even if there is only one."""
        return (self.method,) if isinstance(self.method, str) else tuple(self.method)

    @field_validator("groups")
    @classmethod
    def _at_least_one_group(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 1 or more, `each` or `one`")
        return value

    rules = (
        (
            lambda it: it.components == "each" and not it.embeddings,
            "has `components` 'each', so every tensor of a block has its own knobs, but "
            "`embeddings` false, so embeddings and head have none; set `embeddings` to true",
        ),
        (
            lambda it: it.smooth and it.groups in ("one", 1),
            "has `smooth` true, but `groups` is {0.groups!r}, and interpolation over depth needs 2 "
            "groups or more; change `groups`, or set `smooth` to false",
        ),
        (
            lambda it: len(set(it.components)) < len(it.components),
            "has `components` {0.components}, which names one twice; name each once",
        ),
    )


class OutsideConfig(Section):
    """The parents that give the embeddings and the head."""

    embeddings: str | None = None
    """parent that gives the embeddings; null: the host"""
    head: str | None = None
    """parent that gives the head; null: the host"""


class PathConfig(_SpaceConfig):
    """What all data-flow spaces have."""

    kind: Literal["dataflow"]
    """dataflow: a path through the parents' layers"""
    variant: str
    scales: Scales = (0.5, 1.5)
    outside: OutsideConfig | None = None
    """the parents that give embeddings and head; null: the host"""


class SakanaConfig(PathConfig):
    """Sakana AI's data-flow space."""

    variant: Literal["sakana"] = "sakana"
    """sakana: a slot and an indicator for each layer"""
    repeats: Repeats = 2
    ends: Ends = "fixed"
    start: tuple[float, float] = (1.0, -1.0)
    """start of indicators [in, out] of the first path, in sigmas"""
    layers: Layers = (1, None)

    @field_validator("start")
    @classmethod
    def _in_and_out(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] > 0 >= value[1]:
            raise ValueError(
                "must be [included, left out], two numbers in sigmas, the first above 0 and the "
                "second at most 0, because a path includes the slots whose indicators are above 0"
            )
        return value


class StructuredConfig(PathConfig):
    """A data-flow space of slots that are in or out."""

    variant: Literal["structured"]
    """structured: a slot for each layer, in or out"""
    repeats: Repeats = 2
    ends: Ends = "fixed"
    layers: Layers = (1, None)


class FrankenmergeConfig(PathConfig):
    """A data-flow space of slices."""

    variant: Literal["frankenmerge"]
    """frankenmerge: a few contiguous slices"""
    layers: Layers = (1, None)
    slices: Annotated[tuple[int, int], AfterValidator(_in_order)] = (2, 4)
    """[min, max] number of slices"""


class SwapsConfig(PathConfig):
    """A data-flow space that chooses a parent at each depth."""

    variant: Literal["swaps"]
    """swaps: at each depth the layer of one parent"""


class DroppingConfig(PathConfig):
    """A data-flow space that leaves out layers of the host."""

    variant: Literal["dropping"]
    """dropping: the host without some layers"""
    ends: Ends = "fixed"
    layers: Layers = (1, None)


_KEYS = {
    *FrankenmergeConfig.model_fields,
    *SakanaConfig.model_fields,
    *ParametersConfig.model_fields,
}
"""The keys of all kinds."""


def _with_kind(data: Any) -> Any:
    """Return a section with its kind and variant."""
    if not isinstance(data, Mapping):
        return data
    section = {"kind": "parameters", **data}
    return {"variant": "sakana", **section} if section["kind"] == "dataflow" else section


AnyPathConfig: TypeAlias = (
    SakanaConfig | StructuredConfig | FrankenmergeConfig | SwapsConfig | DroppingConfig
)

SpaceConfig: TypeAlias = Annotated[
    ParametersConfig | Annotated[AnyPathConfig, Field(discriminator="variant")],
    Field(discriminator="kind"),
    BeforeValidator(_with_kind),
]
"""The section `space`: what is searched, and in which ranges."""
