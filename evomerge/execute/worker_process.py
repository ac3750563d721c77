"""What runs in the process of a worker: it makes the worker, runs its jobs, keeps its log messages.

The driver logs these messages when it gets the outcomes, so that all messages of a search are in
one place.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
from collections.abc import Callable
from logging.handlers import QueueHandler
from typing import TypeAlias

from tqdm import tqdm

from evomerge.evaluation.inference.device import processor
from evomerge.execute.allocator import keep_freed_memory
from evomerge.execute.protocol import Job, Result, RunJobs

Reply: TypeAlias = tuple[Result, list[logging.LogRecord]]
"""The outcome of a job, and what was logged meanwhile."""


class WorkerProcess:
    """Holds a worker in a process of its own; `make` makes what runs the jobs."""

    def __init__(self, make: Callable[[], RunJobs]) -> None:
        keep_freed_memory()
        # tqdm's own lock is for several processes: one that is killed leaves it behind in the
        # system.
        tqdm.set_lock(threading.RLock())
        self._records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
        root = logging.getLogger()
        root.handlers = [QueueHandler(self._records)]
        root.setLevel(logging.INFO)
        self._run = make()
        self.processor = processor() if "torch" in sys.modules else ""  # else it scores no model

    def run(self, job: Job) -> Reply:
        """Run a job."""
        [(_, outcome)] = self._run([job])
        return outcome, [self._records.get() for _ in range(self._records.qsize())]


def unpack(reply: Reply) -> Result:
    """Log in the driver what the worker has logged. Returns the outcome."""
    outcome, records = reply
    for record in records:
        logging.getLogger(record.name).handle(record)
    return outcome
