"""RAM and RAM+: changes of single sources are kept, changes of several sources are averaged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise


def prepare_ram(
    tensors: Sequence[Array],
    base: Array | None,
    noise: Sequence[Noise],
    *,
    reuse: bool,
    plus: bool,
) -> Merge:
    """Prepare RAM, or RAM+ if `plus` is True.

    A source changes an element if |x - base| > epsilon. If one source changes an element, its
    change is added to the base; if several do, the mean of their changes is added. In RAM+, an
    element that only source i changes gets its change times 1 + r min(shared_i / alone_i, alpha).
    Here alone_i is the number of elements that only source i changes, and shared_i the number of
    elements that source i and others change.
    """
    import numpy as np

    from evomerge.merging.kernels.overlap import changes, count_overlap, store_mean_change

    assert base is not None
    origin, rows = base.reshape(-1), [tensor.reshape(-1) for tensor in tensors]
    counts: dict[float, tuple[Array, Array]] = {}

    def overlap(epsilon: float) -> tuple[Array, Array]:
        """Return, for each source, the numbers alone_i and shared_i (see `prepare_ram`)."""
        if epsilon not in counts:
            alone, shared = np.zeros(len(rows)), np.zeros(len(rows))
            for _, values in changes(rows, origin):
                count_overlap(values, np.float32(epsilon), alone, shared)
            counts.clear()
            counts[epsilon] = alone, shared
        return counts[epsilon]

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        epsilon, target = knobs["epsilon"], out.reshape(-1)
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
    title="changes that one source makes alone, and the mean of those that several make",
    prepare=partial(prepare_ram, plus=False),
    knobs=(_EPSILON,),
    arrays=True,
    parents=(2, None),
    base="required",
    paper=_PAPER,
)

RAMPLUS = Method(
    name="ramplus",
    title="RAM, with the changes that one source makes alone multiplied by a factor",
    prepare=partial(prepare_ram, plus=True),
    knobs=(
        _EPSILON,
        Knob("r", 0.1, 0, 10, "merge", search=(0.0, 1.0), help="strength of that factor"),
        Knob("alpha", 0.2, 0, 10, "merge", help="upper limit of shared / alone in that factor"),
    ),
    arrays=True,
    parents=(2, None),
    base="required",
    paper=_PAPER,
)
