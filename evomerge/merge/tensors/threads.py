"""Sharing tensors, not operations, among threads.

A merge is many short passes. Were each shared among threads by torch, every pass would wait for
the slowest thread, which costs a hundred times the work where cores are busy with something else
(26 s instead of 0.09 s for 30 M weights were seen on two busy cores). So a thread takes a tensor
of its own, and torch keeps to that thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TypeVar

import torch

T = TypeVar("T")

MOST = 8
"""More threads than this only wait for memory and for each other."""


def count_threads() -> int:
    """Return how many threads `share` uses."""
    return min(torch.get_num_threads(), MOST)


def share(work: Callable[[T], None], items: Iterable[T]) -> None:
    """Call `work` on every item, in as many threads as torch is set to, at most `MOST`.

    Items are begun in their order. When a call raises, no further item is begun, and the
    exception of the earliest item that failed is raised.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if threads == 1:
            for item in items:
                work(item)
        else:
            _spread(work, items, min(threads, MOST))
    finally:
        torch.set_num_threads(threads)


def _spread(work: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    pool = ThreadPoolExecutor(threads, "evomerge-merge", torch.set_num_threads, (1,))
    try:
        begun = [pool.submit(work, item) for item in items]
        wait(begun, return_when=FIRST_EXCEPTION)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    for future in begun:
        if not future.cancelled():
            future.result()
