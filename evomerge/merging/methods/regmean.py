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
    from torch import Tensor

    from evomerge.merging.kernels.noise import Noise


def prepare_mean(
    tensors: Sequence[Tensor], base: Tensor | None, noise: Sequence[Noise], *, reuse: bool
) -> Merge:
    """Prepare the mean of the sources."""
    from evomerge.merging.kernels.passes import write_sum

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        write_sum(tensors, [1 / len(tensors)] * len(tensors), out)

    return merge


def prepare_regression(
    tensors: Sequence[Tensor], grams: Sequence[Tensor], *, transposed: bool
) -> Merge:
    """Prepare the weight that is nearest to all sources on their own inputs."""
    from evomerge.merging.kernels.regression import least_squares

    weights = [tensor.T for tensor in tensors] if transposed else tensors

    def merge(
        sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Tensor
    ) -> None:
        merged = least_squares(weights, grams, knobs["alpha"])
        out.copy_(merged.T if transposed else merged)

    return merge


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
    prepare_grams=prepare_regression,
)
