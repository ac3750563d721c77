"""The definition of a merge method: its knobs, its inputs, and how it makes one merged tensor.

A method works on one tensor at a time, in two steps. The function under `@method` gets the source
tensors and computes what does not depend on knobs. It returns a `Merge`, which is called for each
candidate with its knobs, and writes the merged tensor::

    @method("one source, multiplied", Knob("scale", 1.0, 0, 2, "source"), parents=(1, 1))
    def scaled(given: Operands) -> Merge:
        def merge(sources: Sources, knobs: Values, out: Array) -> None:
            write_sum(given.tensors, [sources[0]["scale"]], out)

        return merge

Tensors are numpy arrays of stored weights, which compiled loops read (see `kernels.compiled`), so
that a merge of files needs no torch; or torch tensors, for a method declared with `torch=True` (see
`blocks`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from evomerge.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from evomerge.merging.kernels.noise import Noise


@dataclass(frozen=True)
class Knob:
    """A parameter of a merge method: its range, its default, and the range that is searched.

    Attributes:
        name: as in mergekit's documentation (`weight`, `density`, `lambda`, `t`, ...).
        default: value if none is given; None if a value must be given.
        low, high: smallest and largest allowed value.
        per: `source` (each parent has its own) or `merge` (one for the whole merge).
        kind: `real`, `integer` or `flag` (0 or 1).
        search: range that is searched if the search file gives none; None: it keeps its default.
        start: value at which a search starts, or None for the middle of the range.
        help: what it is, in a few words for a reader of the code.
        has_slope: False for a number that only selects elements, such as a density.
    """

    name: str
    default: float | None
    low: float
    high: float
    per: Literal["source", "merge"] = "merge"
    kind: Literal["real", "integer", "flag"] = "real"
    search: tuple[float, float] | None = None
    start: float | None = None
    help: str = ""
    has_slope: bool = True

    @property
    def is_smooth(self) -> bool:
        """Whether merged weights have a slope by this knob."""
        return self.kind == "real" and self.has_slope


def flag(name: str, default: bool, help: str) -> Knob:
    """Return a knob of the merge that is off (0) or on (1)."""
    return Knob(name, float(default), 0, 1, kind="flag", help=help)


def weight_knob(help: str) -> Knob:
    """Return the knob `weight` of each source."""
    return Knob("weight", 1.0, -100, 100, "source", search=(0.0, 1.0), help=help)


@dataclass(frozen=True)
class Operands:
    """The tensors of one merge. The `Merge` may keep and read them; nothing may write to them.

    Attributes:
        tensors: one for each source, all of one shape, of any floating dtype: arrays of stored
            weights (uint16 for bfloat16, int16 for float16, float32, float64), or torch tensors.
        base: the base's tensor; None if there is none.
        noise: the random numbers of each source, if the method is `random`.
        reuse: whether the `Merge` will be called for many candidates, so that memory may make each
            call fast. The bits of the result must not depend on it.
        tokens: whether it is an embedding or a head, with a row for each token.
    """

    tensors: Sequence[Any]
    base: Any
    noise: Sequence[Noise] = ()
    reuse: bool = False
    tokens: bool = False


Values: TypeAlias = Mapping[str, float]
"""Knobs by name."""

Sources: TypeAlias = Sequence[Values]
"""The `source` knobs of every source, in order."""

Merge: TypeAlias = Callable[[Sources, Values, Any], None]
"""Writes the merged tensor: takes all `source` knobs, all `merge` knobs, and the tensor to write.

That is contiguous, of the sources' shape and any floating dtype. Arithmetic is float32, rounded
once. Raises `CandidateError` if the knobs have no finite result (for example, the weights sum to 0
and `normalize` is 1)."""

Prepare: TypeAlias = Callable[[Operands], Merge]

KnobKey: TypeAlias = tuple[int | None, str]
"""A knob of one tensor: the place of its source (None: the merge as a whole), and its name."""

SlopesOf: TypeAlias = Callable[[Any, Sources, Values, Any], Mapping[KnobKey, float]]
"""Takes the `Merge`, its knobs, and the gradient of a loss by the merged tensor (float32, flat).

Returns the slopes of the loss by the knobs."""


@dataclass(frozen=True)
class Method:
    """A merge method; `method` makes one from a function.

    Attributes:
        title: one line that says what the method does, for `evomerge list methods`.
        prepare: the first step of a merge, on arrays.
        parents: smallest and largest number of sources (None: no limit), not counting the base.
        base: whether a base model is `required`, `optional`, or `none` (never used).
        paper: its publication (authors, year, arXiv id), or "" if there is none.
        random: whether the method uses `noise`.
        cached_bytes: memory that a prepared merge (with `reuse`) takes in addition to the tensors,
            in bytes for each element of each source.
        in_mergekit: whether a mergekit config can name it.
        costly: whether preparing a matrix (none with `tokens`) takes far longer than reading it.
        slopes: by all knobs that are smooth; None: they are central differences of the merge.
        smoothed: knobs by which a merge jumps, so that `slopes` smooths it; by others it is exact.
        working_bytes: takes a tensor's shape and the `source` knobs, and returns the bytes that its
            merge takes beside the sources and the result; None: some megabytes.
    """

    name: str
    title: str
    prepare: Prepare
    knobs: tuple[Knob, ...]
    parents: tuple[int, int | None]
    base: Literal["required", "optional", "none"] = "none"
    paper: str = ""
    random: bool = False
    cached_bytes: float = 0.0
    in_mergekit: bool = True
    costly: bool = False
    working_bytes: Callable[[Sequence[int], Sources], float] | None = None
    slopes: SlopesOf | None = None
    smoothed: tuple[str, ...] = ()


def method(
    title: str, *knobs: Knob, torch: bool = False, **fields: Any
) -> Callable[[Prepare], Method]:
    """Make a merge method of the function under it, whose name it gets.

    `torch`: whether it works on torch tensors, with one thread, since different tensors are merged
    in different threads. `fields` are other attributes of `Method`.
    """

    def declare(prepare: Prepare) -> Method:
        first_step = on_arrays(prepare) if torch else prepare
        return Method(prepare.__name__, title, first_step, knobs, **fields)

    return declare


def on_arrays(prepare: Prepare) -> Prepare:
    """Return the first step of a merge on arrays, given the one on torch tensors."""

    def prepare_arrays(given: Operands) -> Merge:
        from evomerge.merging.kernels.torch_views import as_tensor, one_thread

        tensors = [as_tensor(item) for item in given.tensors]
        base = None if given.base is None else as_tensor(given.base)
        with one_thread():
            merge = prepare(replace(given, tensors=tensors, base=base))

        def merge_arrays(sources: Sources, knobs: Values, out: Any) -> None:
            with one_thread():
                merge(sources, knobs, as_tensor(out))

        return merge_arrays

    return prepare_arrays


def check_knobs(
    method: Method, sources: Sequence[Values], knobs: Values, *, has_base: bool
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Return all knobs of a method as a `Merge` takes them: those given, and defaults of others.

    Raises:
        RecipeError: there are too few or too many sources, the base or a knob is missing, a knob is
            unknown, or a value is out of range.
    """
    fewest, most = method.parents
    if len(sources) < fewest or (most is not None and len(sources) > most):
        allowed = f"{fewest} or more" if most is None else f"from {fewest} to {most}"
        allowed = f"exactly {fewest}" if fewest == most else allowed
        beside = " beside the base" if has_base else ""
        raise RecipeError(f"{method.name} takes {allowed} sources{beside}, not {len(sources)}.")
    if method.base == "required" and not has_base:
        raise RecipeError(f"{method.name} needs a base model; set `base`.")
    shared = _complete(method, "merge", knobs, "the merge")
    own = [_complete(method, "source", it, f"source {i}") for i, it in enumerate(sources, 1)]
    return own, shared


def _complete(method: Method, per: str, given: Values, where: str) -> dict[str, float]:
    known = {knob.name: knob for knob in method.knobs if knob.per == per}
    for name in given:
        if name in known:
            continue
        if any(knob.name == name for knob in method.knobs):
            place = "each source" if per == "merge" else "the merge as a whole"
            raise RecipeError(
                f"{method.name}: {name!r} belongs to {place}, but was given for {where}; move it."
            )
        allowed = f"allowed are {', '.join(known)}" if known else "it has none"
        raise RecipeError(
            f"{method.name}: unknown knob {name!r} of {where}; {allowed}."
            f"{did_you_mean(name, known)}"
        )
    return {
        name: _value(f"{method.name}: {name!r} of {where}", knob, given.get(name))
        for name, knob in known.items()
    }


def _value(subject: str, knob: Knob, given: float | None) -> float:
    value = knob.default if given is None else float(given)
    kinds = {"real": "a number", "integer": "a whole number", "flag": "true or false,"}
    allowed = f"{kinds[knob.kind]} from {knob.low:g} to {knob.high:g}"
    if value is None:
        raise RecipeError(f"{subject} is missing; give {allowed}.")
    if not (knob.low <= value <= knob.high and (knob.kind == "real" or value.is_integer())):
        allowed = f"{knob.low:g}" if knob.low == knob.high else allowed
        raise RecipeError(f"{subject} is {value:g}; it must be {allowed}.")
    return value
