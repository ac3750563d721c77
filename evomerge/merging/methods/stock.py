"""Model Stock: interpolation between the base and the mean of the sources."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.merging.methods.blocks import blocks, flat, row_products, rows, total
from evomerge.merging.methods.method import Merge, Operands, Sources, Values, flag, method

if TYPE_CHECKING:
    from torch import Tensor


@method(
    "between the base and the mean of the sources, by the angle between task vectors",
    flag("filter_wise", False, "one angle for each row, not for the tensor"),
    parents=(2, None),
    base="required",
    paper="Jang et al. 2024, arXiv 2403.19522",
    torch=True,
)
def model_stock(given: Operands) -> Merge:
    """Prepare out = base + t mean_i(x_i - base) with t = N c / (1 + (N - 1) c).

    c is the mean cosine between the task vectors of the N sources: one number for the tensor or,
    with `filter_wise`, one for each row. If the denominator is 0 (at most 1e-8), the task vectors
    cancel, and the result is the base.
    """
    view = rows if given.base.ndim > 1 else flat
    products = row_products(given, view)

    def merge(sources: Sources, knobs: Values, out: Tensor) -> None:
        pairs = products if knobs["filter_wise"] else products.sum(-1, keepdim=True)
        ratio = _ratio(pairs).float().expand(products.shape[-1])
        for at, base, changes, target in blocks(given, out, view):
            target.copy_(base + ratio[at[0], None] * (total(changes) / len(changes)))

    return merge


def _ratio(products: Tensor) -> Tensor:
    """Return t of each row, given the dot products of the task vectors (see `row_products`)."""
    import torch

    count = len(products)
    one, two = torch.tril_indices(count, count, -1)
    lengths = products.diagonal().T.sqrt()
    scale = lengths[one] * lengths[two]
    # The cosine with a vector of zeros is 0.
    cosine = torch.where(scale == 0, 0.0, products[one, two] / scale).mean(0)
    denominator = 1 + (count - 1) * cosine
    return torch.where(denominator.abs() <= 1e-8, 0.0, count * cosine / denominator)
