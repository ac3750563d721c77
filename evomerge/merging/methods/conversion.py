"""Merge methods on torch tensors as methods on arrays, and the reverse. Weights are not copied."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evomerge.merging.kernels.noise import Noise
from evomerge.merging.kernels.one_thread import one_thread
from evomerge.merging.kernels.torch_views import as_array, as_tensor
from evomerge.merging.methods.method import Merge, Prepare, Weights


def on_arrays(prepare: Prepare) -> Prepare:
    """Return the first step of a merge on arrays, given the one on torch tensors.

    torch uses one thread only, since different tensors are merged in different threads.
    """

    def on_one_thread(
        tensors: Sequence[Weights], base: Weights | None, noise: Sequence[Noise], *, reuse: bool
    ) -> Merge:
        with one_thread():
            merge = prepare(tensors, base, noise, reuse=reuse)

        def merge_on_one_thread(
            sources: Sequence[Mapping[str, float]], knobs: Mapping[str, float], out: Weights
        ) -> None:
            with one_thread():
                merge(sources, knobs, out)

        return merge_on_one_thread

    return _converted(on_one_thread, as_tensor)


def on_tensors(prepare: Prepare) -> Prepare:
    """Return the first step of a merge on torch tensors, given the one on arrays."""
    return _converted(prepare, as_array)


def _converted(prepare: Prepare, convert: Callable[[Any], Any]) -> Prepare:
    """Return a first step that converts the tensors, and the output of its merges."""

    def prepare_converted(
        tensors: Sequence[Weights], base: Weights | None, noise: Sequence[Noise], *, reuse: bool
    ) -> Merge:
        start = None if base is None else convert(base)
        merge = prepare([convert(item) for item in tensors], start, noise, reuse=reuse)
        return lambda sources, knobs, out: merge(sources, knobs, convert(out))

    return prepare_converted
