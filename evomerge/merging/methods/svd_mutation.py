"""A sum of task vectors, mutated along singular components: the merge of CycleQD.

    out = base + sum_i w_i d_i + sum_i U_i diag(f_i) S_i V_i^T

Here d_i = x_i - base is a task vector, U_i S_i V_i^T its singular value decomposition, and f_i are
random numbers from 0 to `mutation`, one for each singular component. Only matrices have a mutation;
norms and biases have none, as in the authors' code (github.com/SakanaAI/CycleQD).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merging.methods.cost import copies
from evomerge.merging.methods.linear import normalized
from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise


def prepare_svd_mutation(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare a sum of task vectors with a mutation; see the top of this file."""
    import numpy as np

    from evomerge.merging.kernels.passes import write_copy, write_sum
    from evomerge.merging.kernels.singular import SingularComponents

    assert base is not None
    components = [SingularComponents(tensor, base, keep=reuse) for tensor in tensors]

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        weights = [source["weight"] for source in sources]
        weights = normalized(weights) if knobs["normalize"] else weights
        mutated = [i for i, source in enumerate(sources) if source["mutation"] and out.ndim == 2]
        if not mutated:
            write_sum(tensors, weights, out, base)
            return
        exact = np.empty(out.shape, dtype=np.float32)
        write_sum(tensors, weights, exact, base)
        for i in mutated:
            exact += components[i].scaled(noise[i], sources[i]["mutation"])
        write_copy(exact, out)

    return merge


def _working_bytes(shape: Sequence[int], sources: Sequence[Mapping[str, float]]) -> float:
    mutated = any(source["mutation"] for source in sources)
    return copies(8)(shape, sources) if mutated and len(shape) == 2 else 0.0


SVD_MUTATION = Method(
    name="svd_mutation",
    title="sum of task vectors, and random shares of their singular components",
    prepare=prepare_svd_mutation,
    knobs=(
        Knob(
            "weight", 1.0, -100, 100, "source", search=(0.0, 1.0), help="factor on the task vector"
        ),
        Knob(
            "mutation",
            0.0,
            0,
            10,
            "source",
            help="each singular component is added times a random number from 0 to this",
        ),
        Knob("normalize", 0.0, 0, 1, "merge", "flag", help="divide the weights by their sum"),
    ),
    arrays=True,
    parents=(1, None),
    base="required",
    paper="Kuroki et al. 2025, arXiv 2410.14735",
    random=True,
    cached_bytes=4.0,
    in_mergekit=False,
    working_bytes=_working_bytes,
)
