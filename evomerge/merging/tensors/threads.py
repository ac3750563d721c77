"""Threads that work on many tensors, one tensor per thread at a time.

A merge is many short operations. If each were divided among threads, every one would wait for the
slowest thread: on two busy cores, this took 26 s instead of 0.09 s for 30 M weights.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import TypeVar

T = TypeVar("T")

MOST = 8
"""Largest number of threads; more would only wait for memory and for each other."""


def count_threads() -> int:
    """Return `OMP_NUM_THREADS`, or else the number of cores that the process may use, as torch."""
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def for_each(work: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    """Call `work` on every item, in a number of threads, but at most `MOST`.

    Items are begun in their order. After an exception no further item is begun; then the exception
    of the first failed item, in the order of items, is raised.
    """
    if threads == 1:
        for item in items:
            work(item)
        return
    failed = Event()

    def attempt(item: T) -> None:
        if failed.is_set():
            return
        try:
            work(item)
        except BaseException:
            failed.set()
            raise

    pool = ThreadPoolExecutor(min(threads, MOST), "evomerge-merge")
    try:
        for future in [pool.submit(attempt, item) for item in items]:
            future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
