"""RAM and RAM+: changes of single sources are kept, changes of several sources are averaged."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from evomerge.merging.methods.blocks import blocks, total
from evomerge.merging.methods.method import Knob, Merge, Operands, Sources, Values, method

if TYPE_CHECKING:
    from torch import Tensor

_PAPER = "Behavior Knowledge Merge in Reinforced Agentic Models, 2026"

_EPSILON = Knob("epsilon", 1e-5, 0, 1, help="smallest change that counts", has_slope=False)


@method(
    "changes that one source makes alone, and the mean of those that several make",
    _EPSILON,
    parents=(2, None),
    base="required",
    paper=_PAPER,
    torch=True,
)
def ram(given: Operands) -> Merge:
    """Prepare RAM.

    A source changes an element if |x - base| > epsilon. If one source changes an element, its
    change is added to the base; if several do, the mean of their changes is added.
    """
    return _prepare(given)


@method(
    "RAM, with the changes that one source makes alone multiplied by a factor",
    _EPSILON,
    Knob("r", 0.1, 0, 10, search=(0.0, 1.0), help="strength of that factor"),
    Knob("alpha", 0.2, 0, 10, help="upper limit of shared / alone in that factor"),
    parents=(2, None),
    base="required",
    paper=_PAPER,
    torch=True,
)
def ramplus(given: Operands) -> Merge:
    """Prepare RAM+: as RAM, but a change that only source i makes is stretched.

    It is multiplied by 1 + r min(shared_i / alone_i, alpha). Here alone_i is the number of elements
    that only source i changes, and shared_i the number that source i and others change.
    """
    return _prepare(given)


def _prepare(given: Operands) -> Merge:
    import torch

    @lru_cache(1)
    def ratios(epsilon: float) -> Tensor:
        """Return shared_i / alone_i (see `ramplus`), of shape (sources, 1, 1)."""
        alone, shared = torch.zeros(2, len(given.tensors), 1, 1, dtype=torch.float64)
        for _, _, changes, _ in blocks(given):
            changed = (changes.abs() > epsilon).float()
            single = changed * (total(changed) == 1)
            alone += single.sum((1, 2), keepdim=True)
            shared += (changed - single).sum((1, 2), keepdim=True)
        found: Tensor = (shared / alone.clamp(min=1)).float()
        return found

    def merge(sources: Sources, knobs: Values, out: Tensor) -> None:
        epsilon, more = knobs["epsilon"], None
        if knobs.get("r"):
            more = knobs["r"] * ratios(epsilon).clamp(max=knobs["alpha"])
        for _, base, changes, target in blocks(given, out):
            changed = (changes.abs() > epsilon).float()
            changes *= changed  # a NaN stays
            number = total(changed)
            mean = total(changes) / number.clamp(min=1)
            if more is not None:
                mean += total(changes * more) * (number == 1)
            target.copy_(base + mean)

    return merge
