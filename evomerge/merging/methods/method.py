"""The definition of a merge method: a function that merges one tensor, with knobs in its signature.

The function under `@method` gets the tensors of all sources and the tensor to write. Its other
parameters are its knobs: their defaults, `knob(...)`, say the range and the default of each::

    @method("one source, multiplied", parents=(1, 1))
    def scaled(operands, out, *, scale=knob(1.0, 0, 2, per="source")):
        write_sum(operands.tensors, scale, out)

What does not depend on knobs, its `preparation` computes once for all candidates of a search.

Tensors are numpy arrays of stored weights, which compiled loops read (see `kernels.compiled`), so
that a merge of files needs no torch; or torch tensors, for a method declared with `torch=True` (see
`blocks`). What a method computes with it imports in the function, so that names and knobs are read
without it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from keyword import iskeyword
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from evomerge.device import torch_threads
from evomerge.errors import RecipeError, did_you_mean

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise


@dataclass(frozen=True)
class Knob:
    """A parameter of a merge method: its range, its default, and the range that is searched.

    Attributes:
        name: as in mergekit's documentation (`weight`, `density`, `lambda`, `t`, ...).
        default: value if none is given; None if a value must be given.
        low: smallest allowed value.
        high: largest allowed value.
        per: `source` (each parent has its own) or `merge` (one for the whole merge).
        kind: `real`, `integer` or `flag` (0 or 1).
        search: range that is searched if the search file gives none; None: it keeps its default.
        start: value at which a search starts, or None for the middle of the range.
        selects: whether it only selects elements, as a density does, so that it has no gradient.
    """

    name: str
    default: float | None
    low: float
    high: float
    per: Literal["source", "merge"] = "merge"
    kind: Literal["real", "integer", "flag"] = "real"
    search: tuple[float, float] | None = None
    start: float | None = None
    selects: bool = False

    @property
    def is_smooth(self) -> bool:
        """Whether merged weights have a gradient by this knob."""
        return self.kind == "real" and not self.selects

    @property
    def allowed(self) -> str:
        """The allowed values in words, such as `a number from 0 to 1`."""
        if self.low == self.high:
            return f"{self.low:g}"
        if self.kind == "flag":
            return "true or false"
        kind = "a number" if self.kind == "real" else "a whole number"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def problem(self, value: float) -> str | None:
        """Return what a value must be, as the end of a sentence; None: it is allowed."""
        is_kind = self.kind == "real" or float(value).is_integer()
        return None if self.low <= value <= self.high and is_kind else f"must be {self.allowed}"


def knob(default: float | None, low: float, high: float, **fields: Any) -> Any:
    """Return the default of a parameter that is a knob; `fields` are attributes of `Knob`.

    A knob of each source is a list in the order of the sources. A parameter `lambda_` is the knob
    `lambda`.
    """
    return Knob("", default, low, high, **fields)


def flag(default: bool) -> Any:
    """Return the default of a parameter that is a knob of the merge, off (0) or on (1)."""
    return Knob("", float(default), 0, 1, kind="flag")


WEIGHT: Any = knob(1.0, -100, 100, per="source", search=(0.0, 1.0))
"""The default of the parameter `weight`, a knob of each source."""


def knobs_of(function: Callable[..., object]) -> tuple[Knob, ...]:
    """Return the knobs in the signature of a function."""
    defaults = {name: it.default for name, it in inspect.signature(function).parameters.items()}
    return tuple(
        replace(knob, name=name[:-1] if iskeyword(name[:-1]) else name)
        for name, knob in defaults.items()
        if isinstance(knob, Knob)
    )


@dataclass(frozen=True)
class Operands:
    """The tensors of one merge, which nothing may write to.

    Attributes:
        tensors: one for each source, all of one shape, of any floating dtype: arrays of stored
            weights (uint16 for bfloat16, int16 for float16, float32, float64), or torch tensors.
        base: the base's tensor; None if there is none.
        noise: the random numbers of each source, if the method is `random`.
        reuse: whether the merge is called for many candidates, so that memory may make each call
            fast. The bits of the result must not depend on it.
        tokens: whether it is an embedding or a head, with a row for each token.
        prepared: what the method's `preparation` has returned.
    """

    tensors: Sequence[Any]
    base: Any
    noise: Sequence[Noise] = ()
    reuse: bool = False
    tokens: bool = False
    prepared: Any = None


Floats: TypeAlias = Sequence[float]
"""A knob of each source, in their order."""

Values: TypeAlias = Mapping[str, float]
"""Knobs by name."""

SourceKnobs: TypeAlias = Sequence[Values]
"""The `source` knobs of every source, in order."""

_TYPES: Mapping[str, type] = {"real": float, "integer": int, "flag": bool}

KnobKey: TypeAlias = tuple[int | None, str]
"""A knob of one tensor: the number of its source (None: the merge as a whole), and its name."""


@dataclass(frozen=True)
class Method:
    """A merge method; `method` makes one from a function.

    Attributes:
        title: one line that says what the method does, for `evomerge list methods`.
        function: takes the operands, the tensor to write and the knobs. The tensor is contiguous,
            of the sources' shape and any floating dtype. Arithmetic is float32, rounded once.
            Raises `CandidateError` if the knobs have no finite result (for example, the weights sum
            to 0 and `normalize` is on).
        preparation: takes the operands, and returns what does not depend on knobs; None: nothing.
        torch: whether tensors are torch's. Then it runs with one thread, since different tensors
            are merged in different threads.
        parents: smallest and largest number of sources (None: no limit), not counting the base.
        base: whether a base model is `required`, `optional`, or `none` (never used).
        paper: its publication (authors, year, arXiv id), or "" if there is none.
        random: whether the method uses `noise`.
        cached_bytes: memory that a prepared merge (with `reuse`) takes in addition to the tensors,
            in bytes for each element of each source.
        in_mergekit: whether a mergekit config can name it.
        costly: whether preparing a matrix (none with `tokens`) takes far longer than reading it.
        working_bytes: memory that a merge takes beside the sources and the result, in bytes for
            each of their elements; 0: some megabytes.
        gradients: takes the operands, the gradient of a loss by the merged tensor (float32, flat)
            and the knobs, and returns the gradients by all knobs that are smooth; None: they are
            central differences of the merge.
        smoothed: knobs by which a merge jumps, so that `gradients` smooths it; by others it is
            exact.
    """

    name: str
    title: str
    function: Callable[..., None]
    knobs: tuple[Knob, ...]
    parents: tuple[int, int | None]
    base: Literal["required", "optional", "none"] = "none"
    paper: str = ""
    preparation: Callable[[Operands], Any] | None = None
    torch: bool = False
    random: bool = False
    cached_bytes: float = 0.0
    in_mergekit: bool = True
    costly: bool = False
    working_bytes: float = 0.0
    gradients: Callable[..., Mapping[KnobKey, float]] | None = None
    smoothed: tuple[str, ...] = ()

    def prepare(self, operands: Operands) -> Merge:
        """Return the merge of these tensors (arrays of stored weights) for any knobs."""
        if self.torch:
            from evomerge.merging.kernels.torch_views import as_tensor

            base = None if operands.base is None else as_tensor(operands.base)
            tensors = [as_tensor(tensor) for tensor in operands.tensors]
            operands = replace(operands, tensors=tensors, base=base)
        if self.preparation is not None:
            with torch_threads(1) if self.torch else nullcontext():
                operands = replace(operands, prepared=self.preparation(operands))
        return Merge(self, operands)

    def arguments(self, sources: SourceKnobs, knobs: Values) -> dict[str, Any]:
        """Return the knobs as the function takes them."""
        arguments: dict[str, Any] = {}
        for knob in self.knobs:
            name = f"{knob.name}_" if iskeyword(knob.name) else knob.name
            convert = _TYPES[knob.kind]
            if knob.per == "source":
                arguments[name] = [convert(source[knob.name]) for source in sources]
            else:
                arguments[name] = convert(knobs[knob.name])
        return arguments


@dataclass(frozen=True)
class Merge:
    """A method with the tensors of one merge."""

    method: Method
    operands: Operands

    def __call__(self, sources: SourceKnobs, knobs: Values, out: Array) -> None:
        """Write the merged tensor, given all knobs; see `Method.function`."""
        arguments = self.method.arguments(sources, knobs)
        if not self.method.torch:
            self.method.function(self.operands, out, **arguments)
            return
        from evomerge.merging.kernels.torch_views import as_tensor

        with torch_threads(1):
            self.method.function(self.operands, as_tensor(out), **arguments)

    def gradients(
        self, sources: SourceKnobs, knobs: Values, gradient: Array
    ) -> Mapping[KnobKey, float]:
        """Return the gradients by knobs that the method has of its own, at these knobs."""
        if self.method.gradients is None:
            return {}
        arguments = self.method.arguments(sources, knobs)
        return self.method.gradients(self.operands, gradient, **arguments)


def method(title: str, **fields: Any) -> Callable[[Callable[..., None]], Method]:
    """Make a merge method of the function under it, whose name it gets.

    `fields` are other attributes of `Method`; `parents` is needed.
    """
    return lambda function: Method(function.__name__, title, function, knobs_of(function), **fields)


def check_knobs(
    method: Method, sources: Sequence[Values], knobs: Values, *, has_base: bool
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Return all knobs of a method as a `Merge` takes them: these, and defaults of the others.

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
    of_sources = [_complete(method, "source", it, f"source {i}") for i, it in enumerate(sources, 1)]
    return of_sources, shared


def _complete(method: Method, per: str, values: Values, where: str) -> dict[str, float]:
    known = {knob.name: knob for knob in method.knobs if knob.per == per}
    for name in values:
        if name in known:
            continue
        owner = "each source" if per == "merge" else "the merge as a whole"
        why = f"{name!r} belongs to {owner}, but was given for {where}; move it."
        if all(knob.name != name for knob in method.knobs):
            allowed = f"allowed are {', '.join(known)}" if known else "it has none"
            why = f"unknown knob {name!r} of {where}; {allowed}.{did_you_mean(name, known)}"
        raise RecipeError(f"{method.name}: {why}")
    return {
        name: _value(f"{method.name}: {name!r} of {where}", knob, values.get(name))
        for name, knob in known.items()
    }


def _value(subject: str, knob: Knob, value: float | None) -> float:
    value = knob.default if value is None else float(value)
    if value is None:
        raise RecipeError(f"{subject} is missing; give {knob.allowed}.")
    if (problem := knob.problem(value)) is not None:
        raise RecipeError(f"{subject} is {value:g}; it {problem}.")
    return value
