"""What a merge method is: its knobs, what it needs, and how it makes one tensor.

A method works tensor by tensor, in two steps. `prepare` gets the source tensors and computes what
no knob changes (task vectors, magnitude ranks, random fields, norms and dot products). The
`Merge` it returns is called once a candidate with the knobs and writes the merged tensor. Both the
resident model and the out-of-core writer go through these two steps, so their bits are equal.
torch is imported inside functions only: `evomerge list methods` must not pay for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.noise import Noise


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
            out: tensor of the sources' shape; arithmetic is float32 and is rounded once to
                `out`'s dtype.

        Raises:
            CandidateError: these knobs have no finite result (weights that sum to 0, say).
        """
        ...


class Method(Protocol):
    """A merge method.

    Attributes:
        name: as in recipes and search files.
        title: one line for people.
        paper: where it comes from (authors, year, arXiv id), or "" where nobody published it.
        parents: smallest and largest number of sources (None: no limit), base not counted.
        base: whether a base model is `required`, `optional`, or `none` (never used).
        knobs: all knobs.
    """

    name: str
    title: str
    paper: str
    parents: tuple[int, int | None]
    base: Literal["required", "optional", "none"]
    knobs: tuple[Knob, ...]

    def prepare(
        self,
        tensors: Sequence[Tensor],
        base: Tensor | None,
        noise: Sequence[Noise],
        *,
        reuse: bool,
    ) -> Merge:
        """Compute what does not depend on the knobs.

        Args:
            tensors: one a source, same shape, any floating dtype.
            base: the base's tensor, or None.
            noise: one random field a source, keyed by (seed, parent, tensor name).
            reuse: True where the result is called for many candidates (spend memory to make
                each call cheap), False where it is called once (spend as little as possible).
                The bits of the result do not depend on it.
        """
        ...
