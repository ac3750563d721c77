"""The section `optimizer.options` of the search strategies that merge earlier candidates."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, ValidationError

from evomerge.config.fields import Section
from evomerge.config.messages import sentence
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError

S = TypeVar("S", bound=Section)


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("must be [low, high] with low < high")
    return bounds


Bounds = Annotated[tuple[float, float], AfterValidator(_ordered)]

_DISK = Field(
    None,
    min_length=1,
    description="largest size of the members on disk, such as 50GB; null: that of 24 models",
)


class NichesOptions(Section):
    """The options of M2N2."""

    archive: Annotated[int, Field(ge=2, le=1000)] = Field(
        20, description="largest number of members"
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=10,
        description="how much members take from each other: a member's share of a document is its "
        "score / (sum of the scores of all members) ** alpha",
    )
    attraction: bool = Field(
        True, description="draw the second mate by what it gets and the first does not"
    )
    disk: str | None = _DISK


class CycleQDOptions(Section):
    """The options of CycleQD."""

    bins: int = Field(
        15, ge=1, le=1000, description="number of bins of each score that describes a cell"
    )
    bounds: dict[str, Bounds] = Field(
        default={},
        description="TASK/METRIC -> [low, high], the range that is divided into bins; 0 to 1 where "
        "none is given",
    )
    sigma: float = Field(
        0.01,
        ge=0,
        le=0.3,
        description="standard deviation of the weights of the two parents, whose mean is 1",
    )
    mutation: float = Field(
        0.1,
        ge=0,
        le=10,
        description="largest share of a singular component of the expert that a mutation adds; 0: "
        "no mutation",
    )
    aggregate: int = Field(
        0,
        ge=0,
        description="each candidate whose count is a multiple of this merges the best elites of "
        "all archives; 0: none does",
    )
    disk: str | None = _DISK


def options_of(config: SearchConfig, kind: type[S]) -> S:
    """Return the options of a strategy.

    Args:
        config: the search file.
        kind: what the options are checked with.

    Raises:
        ConfigError: an option is unknown, or out of range.
    """
    given = config.optimizer.options
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"optimizer.options: {sentence(error, given, kind)}") from None
