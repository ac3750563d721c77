"""RAM: changes that one source alone makes go in whole, shared ones as their mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from evomerge.merge.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from torch import Tensor

    from evomerge.merge.kernels.compiled import Array
    from evomerge.merge.kernels.noise import Noise


def prepare_ram(
    tensors: Sequence[Tensor],
    base: Tensor | None,
    noise: Sequence[Noise],
    *,
    reuse: bool,
    plus: bool,
) -> Merge:
    """Prepare RAM, or RAM+ (`plus`).

    A source changes an element where |x - base| > epsilon. An element changed by one source
    takes that change; one changed by several takes the mean of their changes. RAM+ stretches the
    changes that source i makes alone by 1 + r min(overlap_i / alone_i, alpha): the number of
    elements it shares with others over the number it changes alone.
    """
    import numpy as np

    from evomerge.merge.kernels.compiled import stored
    from evomerge.merge.kernels.overlap import changes, count_overlap, store_mean_change

    assert base is not None
    origin, rows = stored(base), [stored(tensor) for tensor in tensors]
    counts: dict[float, tuple[Array, Array]] = {}

    def overlap(epsilon: float) -> tuple[Array, Array]:
        """Return how many elements each source changes alone, and how many with others."""
        if epsilon not in counts:
            alone, shared = np.zeros(len(rows)), np.zeros(len(rows))
            for _, values in changes(rows, origin):
                count_overlap(values, np.float32(epsilon), alone, shared)
            counts.clear()
            counts[epsilon] = alone, shared
        return counts[epsilon]

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        epsilon, target = knobs["epsilon"], stored(out)
        stretch = np.ones(len(rows), dtype=np.float32)
        if plus:
            alone, shared = overlap(epsilon)
            ratios = np.minimum(shared / np.maximum(alone, 1), knobs["alpha"])
            stretch = (1 + knobs["r"] * ratios).astype(np.float32)
        for span, values in changes(rows, origin):
            store_mean_change(origin[span], values, np.float32(epsilon), stretch, target[span])

    return merge


_PAPER = "Behavior Knowledge Merge in Reinforced Agentic Models, 2026"

_EPSILON = Knob("epsilon", 1e-5, 0, 1, "merge", help="smallest change that counts")

RAM = Method(
    name="ram",
    title="changes of one source whole, shared changes as their mean",
    prepare=partial(prepare_ram, plus=False),
    knobs=(_EPSILON,),
    parents=(2, None),
    base="required",
    paper=_PAPER,
)

RAMPLUS = Method(
    name="ramplus",
    title="RAM, with the changes of one source alone stretched",
    prepare=partial(prepare_ram, plus=True),
    knobs=(
        _EPSILON,
        Knob("r", 0.1, 0, 10, "merge", search=(0.0, 1.0), help="strength of the stretch"),
        Knob("alpha", 0.2, 0, 10, "merge", help="largest overlap ratio that counts"),
    ),
    parents=(2, None),
    base="required",
    paper=_PAPER,
)
