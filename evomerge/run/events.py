"""The events of a journal: the fields of each kind, and their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic cannot read typing's before Python 3.12

from evomerge.errors import RunFolderError
from evomerge.parsing.values import shown
from evomerge.scores import Split

REMEDY = (
    "restore the journal from a copy, or keep only what is before this line by `evomerge resume "
    "RUN --truncate`."
)

_STRICT = ConfigDict(strict=True)
_Number = float | bool
_Count = Annotated[int, Field(ge=0)]


class _Expected(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    value: float
    error: float


class _Example(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    task: str
    document: _Count
    prompt: str
    answer: str
    parsed: str
    target: str
    values: dict[str, _Number]


class _Scores(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    documents: dict[str, list[_Count]]
    values: dict[str, list[_Number]]
    aggregates: dict[str, _Number]
    expected: NotRequired[dict[str, _Expected]]
    examples: NotRequired[list[_Example]]
    largest: NotRequired[dict[str, float]]


class _Failure(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    stage: str
    reason: str


class _Ask(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    candidate: _Count
    digest: str
    label: NotRequired[str | None]
    origin: NotRequired[dict[str, Any]]
    generation: NotRequired[_Count | None]
    incumbent: NotRequired[_Count | None]
    known: NotRequired[_Count]


class _Outcome(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    candidate: _Count
    scores: NotRequired[_Scores]
    failure: NotRequired[_Failure]
    values: NotRequired[list[float] | None]


class _Tell(_Outcome):
    same_as: NotRequired[_Count]


class _Score(_Outcome):
    split: Split
    as_itself: NotRequired[bool]


class _Winner(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    candidate: _Count


class _Budget(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    candidates: NotRequired[_Count | None]
    hours: NotRequired[float | None]
    patience: NotRequired[_Count | None]
    target: NotRequired[float | None]


class _Memory(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    halvings: _Count


class _Threads(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    threads: Annotated[int, Field(ge=1)]


class _Search(TypedDict):
    __pydantic_config__ = _STRICT  # type: ignore[misc]
    digest: str


_KINDS: Mapping[str, TypeAdapter[Any]] = {
    "ask": TypeAdapter(_Ask),
    "tell": TypeAdapter(_Tell),
    "complete": TypeAdapter(_Outcome),
    "score": TypeAdapter(_Score),
    "winner": TypeAdapter(_Winner),
    "budget": TypeAdapter(_Budget),
    "memory": TypeAdapter(_Memory),
    "threads": TypeAdapter(_Threads),
    "search": TypeAdapter(_Search),
}


def check_event(event: Mapping[str, Any], line: int) -> None:
    """Check the types of an event's fields. Unknown kinds and fields are ignored.

    Args:
        event: the event.
        line: number of its line in the journal, for error messages.

    Raises:
        RunFolderError: a field is missing or has the wrong type.
    """
    kind = event.get("event")
    adapter = _KINDS.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        return
    try:
        adapter.validate_python(event)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RunFolderError(
            f"Line {line} of the journal has an event {shown(kind)} whose {shown(place)} is wrong "
            f"({first['msg']}); {REMEDY}"
        ) from None
