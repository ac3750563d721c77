"""RegMean: weights of linear layers by regression on their inputs; all other tensors by the mean.

See `evomerge.merging.kernels.regression` for the formula. The authors merge every linear layer of a
model but the classifier that they add to it. Here too: also the output head, where it is no copy of
the embeddings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.merging.methods.method import Knob, Merge, Method

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array
    from evomerge.merging.kernels.noise import Noise


def prepare_mean(
    tensors: Sequence[Array], base: Array | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare the mean of the sources."""
    from evomerge.merging.kernels.passes import write_sum

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        write_sum(tensors, [1 / len(tensors)] * len(tensors), out)

    return merge


def prepare_regression(
    tensors: Sequence[Array], grams: Sequence[Array], *, transposed: bool
) -> Merge:
    """Prepare the weight that is nearest to all sources on their own inputs."""
    from evomerge.merging.kernels.passes import write_copy
    from evomerge.merging.kernels.regression import least_squares
    from evomerge.merging.kernels.torch_views import as_array, as_tensor

    stored = [as_tensor(array) for array in tensors]
    weights = [tensor.T for tensor in stored] if transposed else stored
    inputs = [as_tensor(array) for array in grams]

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Array
    ) -> None:
        merged = least_squares(weights, inputs, knobs["alpha"])
        write_copy(as_array((merged.T if transposed else merged).contiguous()), out)

    return merge


def _working_bytes(shape: Sequence[int], sources: Sequence[Mapping[str, float]]) -> float:
    """Return the bytes of float64 copies of a weight and of the Gram matrix of its inputs."""
    if len(shape) != 2:
        return 0.0
    return 8 * (6 * shape[0] * shape[1] + 4 * max(shape) ** 2)  # inputs are rows in GPT-2


REGMEAN = Method(
    name="regmean",
    title="linear layers by least squares on the inputs of each source; other tensors by the mean",
    prepare=prepare_mean,
    knobs=(
        Knob(
            "alpha",
            0.9,
            0,
            1,
            "merge",
            help="factor on the Gram matrices outside of their diagonals",
        ),
    ),
    parents=(1, None),
    base="none",
    paper="Jin et al. 2023, arXiv 2212.09849",
    in_mergekit=False,
    svds=(0.14, 0.08),
    arrays=True,
    working_bytes=_working_bytes,
    prepare_grams=prepare_regression,
)
