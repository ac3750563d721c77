"""From a problem to what builds and scores its candidates, in whichever process that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.setup.fidelity import make_fidelity
from evomerge.setup.problem import Problem

if TYPE_CHECKING:
    from evomerge.execute.worker import Worker
    from evomerge.merge.architecture.placement import Placement
    from evomerge.merge.resident import Resident


@dataclass(frozen=True)
class MemoryShare:
    """What a worker may take of the machine's memory beside models and mapped parents, in bytes.

    Attributes:
        prepared: for parts of merges that are kept from candidate to candidate.
        states: for hidden states that paths of one generation share.
    """

    prepared: int
    states: int

    @classmethod
    def of_machine(cls, workers: int) -> MemoryShare:
        """Return the share of each of several workers: a quarter and an eighth of what is free."""
        import psutil

        free = int(psutil.virtual_memory().available) // workers
        return cls(free // 4, free // 8)


def check_placement(config: SearchConfig, host: Checkpoint) -> None:
    """Refuse a device, attention or memory bound that cannot work.

    Raises:
        ConfigError: it is not there, or the model does not fit.
    """
    place(config, host).check(host.config, config.dtype)


def place(config: SearchConfig, model: Checkpoint) -> Placement:
    """Return where a model of this size is run, and with which attention; set torch's threads.

    Raises:
        InputError: there is no such device, or a size is none.
    """
    from evomerge.evaluate.inference.device import choose_device, choose_threads
    from evomerge.merge.architecture.placement import Placement
    from evomerge.merge.backend import bytes_of

    wanted = config.evaluation
    device = choose_device(wanted.device)
    choose_threads(model.parameters, device)
    memory = None
    if wanted.max_memory is not None:
        memory = {
            number: bytes_of(size, f"evaluation.max_memory.{number}")
            for number, size in wanted.max_memory.items()
        }
    attention = None if wanted.attention == "auto" else wanted.attention
    return Placement(device, wanted.device_map, memory, attention)


def make_worker(problem: Problem, share: MemoryShare) -> Worker:
    """Load the tokenizer, build the resident model, prepare the documents.

    Args:
        problem: of a new search, or restored from a run's folder: nothing else is needed.
        share: the memory it is given.

    Raises:
        InputError: a parent cannot be loaded, or a task is not what it was.
    """
    from evomerge.execute.worker import Worker
    from evomerge.merge.backend import resident, tokenizer

    config = problem.config
    first = next(iter(problem.space.baselines().values()))

    def make() -> tuple[Resident, Any]:
        model = resident(
            problem.checkpoints,
            first,
            place(config, problem.checkpoints[problem.host]),
            routed=config.space.kind != "parameters",
            memory=share.prepared,
        )
        return model, tokenizer(problem.checkpoints, first)

    return Worker(
        make,
        problem.evaluator,
        problem.splits,
        first,
        objectives=problem.objectives,
        fidelity=make_fidelity(config),
    )
