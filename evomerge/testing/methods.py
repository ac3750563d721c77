"""The laws of merge methods."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from evomerge.device import torch_threads
from evomerge.errors import CandidateError
from evomerge.merging.kernels.noise import Noise
from evomerge.merging.methods.method import Knob, Merge, Method, Operands

if TYPE_CHECKING:
    from torch import Tensor


WINDOW = 100
"""A knob without a search range takes values at most this far from its default: so that a number of
steps that may be a million does not make the check take hours."""


def check_method(method: Method, samples: int = 20, seed: int = 0) -> None:
    """Check the laws of a merge method (`evomerge.merging.methods.method`), and say if all hold.

    Sources are not written to, arithmetic is float32 and rounded once, no knobs give NaN, and the
    result depends neither on earlier calls nor on threads. Every knob takes several values, also
    one that is not searched, and each knob of the sources is 0 for all of them, if it may be.

    Args:
        method: what `@method(...)` makes of a function.
        samples: number of merges with random knobs, of small tensors of several shapes and dtypes.
        seed: seed of tensors and knobs.

    Raises:
        AssertionError: a law is broken; the message says which.
    """
    import torch

    assert isinstance(method, Method), (
        f"check_method got {method!r}; give it what `@method(...)` makes of a function."
    )
    for knob in method.knobs:
        _check_knob(knob)
    random, of_torch = np.random.RandomState(seed), torch.Generator().manual_seed(seed)
    fewest, most = method.parents
    zeros = [knob.name for knob in method.knobs if knob.per == "source" and _may_be_0(knob)]
    for number in range(samples + 4 * len(zeros)):  # 4: other knobs, too, take their values
        count = int(random.randint(fewest, (most or fewest + 2) + 1))
        shape = ((), (7,), (5, 6), (2, 3, 4))[number % 4]
        dtype = (torch.float32, torch.bfloat16)[number // 4 % 2]
        tensors = [torch.randn(shape, generator=of_torch).to(dtype) for _ in range(count + 1)]
        base = None if method.base == "none" else tensors[-1]
        sources = [
            _knobs(method, "source", random.uniform, number + place) for place in range(count)
        ]
        if number >= samples:
            sources = [values | {zeros[(number - samples) // 4]: 0.0} for values in sources]
        knobs = _knobs(method, "merge", random.uniform, number)
        _check_tensor(method, tensors[:count], base, sources, knobs)
    print(f"{method.name} keeps the laws of merge methods: {samples} merges, all is well.")


def on_tensors(prepare: Callable[[Operands], Merge]) -> Callable[..., Callable[..., None]]:
    """Return `Method.prepare` for torch tensors.

    It takes the attributes of `Operands`; its merges write torch tensors.
    """
    from evomerge.merging.kernels.torch_views import as_array

    def prepare_tensors(
        tensors: Sequence[Tensor], base: Tensor | None, noise: Sequence[Noise] = (), **flags: bool
    ) -> Callable[..., None]:
        start = None if base is None else as_array(base)
        merge = prepare(Operands([as_array(it) for it in tensors], start, noise, **flags))
        return lambda sources, knobs, out: merge(sources, knobs, as_array(out))

    return prepare_tensors


def _check_tensor(
    method: Method,
    tensors: list[Tensor],
    base: Tensor | None,
    sources: list[dict[str, float]],
    knobs: dict[str, float],
) -> None:
    import torch

    noise = [Noise(0, f"parent{i}", "weight") for i in range(len(tensors))]
    prepare = on_tensors(method.prepare)
    inputs = tensors if base is None else [*tensors, base]
    copies = [tensor.clone() for tensor in inputs]

    def run(
        dtype: torch.dtype = torch.float32,
        *,
        reuse: bool = False,
        before: Sequence[float] = (),
        stored: torch.dtype = tensors[0].dtype,
    ) -> Tensor | None:
        out = torch.full(tensors[0].shape, math.nan, dtype=dtype)
        merged = [tensor.to(stored) for tensor in tensors]
        try:
            merge = prepare(merged, None if base is None else base.to(stored), noise, reuse=reuse)
            for share in before:
                others = [_knobs(method, "source", lambda: share) for _ in sources]  # noqa: B023
                merge(others, knobs, out.clone())
            merge(sources, knobs, out)
        except CandidateError:
            return None
        except Exception as error:
            raise AssertionError(
                f"{method.name} raises {type(error).__name__} ({error}) for {len(tensors)} sources "
                f"of shape {tuple(out.shape)}; it must merge tensors of any shape into `out`, "
                "which has theirs."
            ) from error
        return out

    def check_sources() -> None:
        unchanged = all(map(torch.equal, copies, inputs))
        assert unchanged, (
            f"{method.name} writes into the tensors it merges, with the knobs {sources} {knobs}."
        )

    once = run()
    check_sources()
    if once is None:
        return
    assert not once.isnan().any(), (
        f"{method.name}: the result for the knobs {sources} {knobs} is NaN, as `out` is at first; "
        "write it there, as by `out.copy_(result)` (what is returned is not used), or raise "
        "CandidateError."
    )
    assert torch.isfinite(once).all(), (
        f"{method.name}: the result for the knobs {sources} {knobs} is not finite; such knobs must "
        "raise CandidateError."
    )
    with torch_threads(1 if torch.get_num_threads() > 1 else 2):
        results = {"the result depends on the number of threads": run()}
    results["reuse=True and reuse=False give different bits"] = run(reuse=True)
    again = run(reuse=True, before=(0.0, 1.0))
    results["the result depends on earlier calls of the merge"] = again
    check_sources()
    results[
        "bfloat16 sources give another result than float32 ones with the same values, so not all "
        "arithmetic is float32"
    ] = run(stored=torch.float32)
    for sentence, result in results.items():
        assert result is None or torch.equal(once, result), f"{method.name}: {sentence}."
    for dtype in (torch.bfloat16, torch.float16):
        is_short = torch.equal(once, once.to(dtype).float()) and once.numel() > 1 and once.any()
        assert tensors[0].dtype != torch.float32 or not is_short, (
            f"{method.name}: of float32 sources each element of the result is a {dtype} number, so "
            "not all arithmetic is float32; the knobs are "
            f"{sources} {knobs}."
        )
    rounded, expected = run(torch.bfloat16), once.to(torch.bfloat16)
    assert rounded is None or torch.equal(rounded, expected), (
        f"{method.name}: a bfloat16 result is not the float32 result rounded once."
    )


def _check_knob(knob: Knob) -> None:
    for value in (knob.default, *(knob.search or ())):
        assert value is None or knob.low <= value <= knob.high, (
            f"Knob {knob.name}: {value} is outside of {knob.low} to {knob.high}."
        )
    low, high = knob.search or (-math.inf, math.inf)
    assert low < high, f"Knob {knob.name}: the search range {knob.search} is empty."
    assert knob.start is None or low <= knob.start <= high, (
        f"Knob {knob.name} starts at {knob.start}, outside of its search range {knob.search}."
    )


def _may_be_0(knob: Knob) -> bool:
    return knob.low <= 0 <= knob.high


def _knobs(method: Method, per: str, share: Callable[[], float], turn: int = 0) -> dict[str, float]:
    """Return values of the `source` or `merge` knobs of a method, at shares of their ranges.

    A knob that is not searched takes its default, the lowest, the highest and another value in
    turn.
    """
    values = {}
    for place, knob in enumerate(method.knobs):
        if knob.per != per:
            continue
        assert knob.search or knob.default is not None, (
            f"Knob {knob.name} has neither a default nor a range."
        )
        low, high = knob.search or _window(knob)
        value = low + share() * (high - low)
        if knob.search is None:
            # A step further for each of the four shapes, so that each shape gets all four.
            start = low if knob.default is None else knob.default
            value = (start, low, high, value)[(turn + turn // 4 + place) % 4]
        values[knob.name] = value if knob.kind == "real" else float(round(value))
    return values


def _window(knob: Knob) -> tuple[float, float]:
    """Return the range of values that a knob takes which is not searched."""
    assert knob.default is not None
    return max(knob.low, knob.default - WINDOW), min(knob.high, knob.default + WINDOW)
