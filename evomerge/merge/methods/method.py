"""What a merge method is: its knobs, what it needs, and how it makes one tensor.

A method works tensor by tensor, in two steps. `prepare` gets the source tensors and computes what
no knob changes (task vectors, magnitude ranks, random fields, norms and dot products). The
`Merge` it returns is called once a candidate with the knobs and writes the merged tensor. Both the
resident model and the out-of-core writer go through these two steps, so their bits are equal.
torch is imported inside functions only: `evomerge list methods` must not pay for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from evomerge.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.kernels.noise import Noise


@dataclass(frozen=True)
class Knob:
    """One parameter of a merge method, declared once beside the method.

    Attributes:
        name: as in mergekit's documentation (`weight`, `density`, `lambda`, `t`, ...).
        default: value where none is given, or None if one must be given.
        low: smallest allowed value.
        high: largest allowed value.
        per: `source` (each parent has its own) or `merge` (one for the whole merge).
        kind: `real`, `integer` or `flag` (0 or 1).
        search: range a search explores when the search file names none, or None if the knob
            stays at its default.
        start: where a search starts, or None for the middle of the range.
        help: one line for `evomerge list methods`.
    """

    name: str
    default: float | None
    low: float
    high: float
    per: Literal["source", "merge"]
    kind: Literal["real", "integer", "flag"] = "real"
    search: tuple[float, float] | None = None
    start: float | None = None
    help: str = ""


class Merge(Protocol):
    """One tensor's merge, ready for any knobs."""

    def __call__(
        self,
        sources: Sequence[Mapping[str, float]],
        knobs: Mapping[str, float],
        out: Tensor,
    ) -> None:
        """Write the merged tensor into `out`.

        Args:
            sources: every `source` knob of every source, in the order given to `prepare`.
            knobs: every `merge` knob.
            out: tensor of the sources' shape, any floating dtype, contiguous, sharing no memory
                with the tensors given to `prepare`; arithmetic is float32 and is rounded once to
                `out`'s dtype.

        Raises:
            CandidateError: these knobs have no finite result (weights that sum to 0, say).
        """
        ...


class Prepare(Protocol):
    """Computes what does not depend on the knobs."""

    def __call__(
        self,
        tensors: Sequence[Tensor],
        base: Tensor | None,
        noise: Sequence[Noise],
        *,
        reuse: bool,
    ) -> Merge:
        """Return the merge of these tensors.

        Args:
            tensors: one a source, same shape, any floating dtype; kept and read again by the
                `Merge`, never written.
            base: the base's tensor, or None (always None where the method's `base` is `none`).
            noise: one random field a source, keyed by (seed, parent, tensor name); may be empty
                where the method's `random` is False.
            reuse: True where the result is called for many candidates (spend memory to make
                each call cheap), False where it is called once (spend as little as possible).
                The bits of the result do not depend on it.
        """
        ...


@dataclass(frozen=True)
class Method:
    """A merge method.

    Attributes:
        name: as in recipes and search files.
        title: one line for people.
        prepare: the first of the two steps; the second is the `Merge` it returns.
        knobs: all knobs.
        parents: smallest and largest number of sources (None: no limit), base not counted.
        base: whether a base model is `required`, `optional`, or `none` (never used). The base is
            not one of the sources: where mergekit lists it among the models, it is taken out.
        paper: where it comes from (authors, year, arXiv id), or "" where nobody published it.
        random: whether the method draws from `noise`.
        held: bytes an element of a source that `prepare(reuse=True)` keeps beside the tensors.
    """

    name: str
    title: str
    prepare: Prepare
    knobs: tuple[Knob, ...]
    parents: tuple[int, int | None]
    base: Literal["required", "optional", "none"]
    paper: str = ""
    random: bool = False
    held: float = 0.0


MERGED_DTYPES = ("F64", "F32", "F16", "BF16")
"""Dtypes, as safetensors headers spell them, that are merged."""


def is_merged(dtypes: Iterable[str]) -> bool:
    """Return whether tensors of these dtypes (safetensors spelling) are merged.

    Integer and boolean buffers (position ids, masks) have no meaningful average. They are copied
    bit for bit from the base, or from the first source where there is no base.
    """
    return all(dtype in MERGED_DTYPES for dtype in dtypes)


def check_knobs(
    method: Method,
    sources: Sequence[Mapping[str, float]],
    knobs: Mapping[str, float],
    *,
    has_base: bool,
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Check what a recipe gives a method, and fill in defaults.

    Args:
        method: the method.
        sources: the knobs given for every source, in order.
        knobs: the knobs given for the merge as a whole.
        has_base: whether there is a base.

    Returns:
        every `source` knob of every source and every `merge` knob, ready for a `Merge`.

    Raises:
        RecipeError: too few or too many sources, no base, an unknown or missing knob, a value
            out of range.
    """
    fewest, most = method.parents
    if len(sources) < fewest or (most is not None and len(sources) > most):
        allowed = f"{fewest} or more" if most is None else f"from {fewest} to {most}"
        allowed = f"exactly {fewest}" if fewest == most else allowed
        raise RecipeError(
            f"{method.name} takes {allowed} sources, the base not counted, and got {len(sources)}."
        )
    if method.base == "required" and not has_base:
        raise RecipeError(f"{method.name} needs a base model; name one with `base`.")
    return (
        [_complete(method, "source", given, f"source {i + 1}") for i, given in enumerate(sources)],
        _complete(method, "merge", knobs, "the merge"),
    )


def _complete(
    method: Method, per: Literal["source", "merge"], given: Mapping[str, float], where: str
) -> dict[str, float]:
    known = {knob.name: knob for knob in method.knobs if knob.per == per}
    for name in given:
        if name not in known:
            raise RecipeError(_unknown(method, per, name, where, tuple(known)))
    return {name: _value(method, knob, given.get(name), where) for name, knob in known.items()}


def _unknown(method: Method, per: str, name: str, where: str, known: Sequence[str]) -> str:
    if any(knob.name == name for knob in method.knobs):
        place = "each source" if per == "merge" else "the merge as a whole"
        return f"{method.name}: {name!r} belongs to {place}, and was given for {where}."
    allowed = f"allowed are {', '.join(known)}" if known else "it has none"
    return f"{method.name}: unknown knob {name!r} of {where}; {allowed}.{did_you_mean(name, known)}"


def _value(method: Method, knob: Knob, given: float | None, where: str) -> float:
    value = knob.default if given is None else float(given)
    if value is None:
        raise RecipeError(
            f"{method.name}: {knob.name!r} of {where} is missing; give a number from {knob.low:g} "
            f"to {knob.high:g}."
        )
    whole = knob.kind == "real" or value.is_integer()
    if not (knob.low <= value <= knob.high and whole):
        kinds = {"real": "a number", "integer": "a whole number", "flag": "true or false,"}
        allowed = f"{kinds[knob.kind]} from {knob.low:g} to {knob.high:g}"
        raise RecipeError(
            f"{method.name}: {knob.name!r} of {where} is {value:g}; it must be "
            f"{f'{knob.low:g}' if knob.low == knob.high else allowed}."
        )
    return value
