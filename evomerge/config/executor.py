"""The section `executor` of a search file: where candidates are built and scored."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.fields import Kind, Section
from evomerge.config.messages import parsed
from evomerge.errors import ConfigError
from evomerge.registry import Registry


class RayConfig(Section):
    """Where Ray runs, and what each worker takes of a machine."""

    address: str | None = Field(None, min_length=1)
    """HOST:PORT of a running cluster; auto: the cluster that this machine belongs to; null: start
    Ray on this machine"""
    resources: dict[str, Annotated[float, Field(gt=0, le=1e6)]] | None = None
    """what a worker takes, such as {GPU: 1, CPU: 4}; fractions of a GPU are allowed; null: a GPU if
    there is one, and a CPU core"""


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers a search has, and where they run.

    Attributes:
        text: how many there are and where, for people.
        count: number on all machines together.
        on_a_machine: the largest number on one machine.
        on_an_accelerator: the largest number that share an accelerator of a machine.
        are_forked: whether they are forked from one process, whose libraries they share.
        are_here: whether they run on this machine.
    """

    text: str
    count: int = 1
    on_a_machine: int = 1
    on_an_accelerator: int = 1
    are_forked: bool = False
    are_here: bool = True


class ExecutorKind(Kind):
    """A way to run candidates, as search files name it in `executor.kind`.

    Another package adds one with an entry point of the group `evomerge.executors` whose object is
    a subclass. Its `kind` is a `Literal` with its name, and further fields are keys of its own.

    Attributes:
        in_process: whether candidates run in the process of the search, which has the functions
            that its program has defined.
        is_local: whether they run on this machine, whatever the keys say.
    """

    in_process: ClassVar[bool] = False
    is_local: ClassVar[bool] = True

    kind: str
    workers: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = 1
    """number of workers; auto: one for each accelerator, else for each CPU core"""
    timeout: float | None = Field(None, gt=0)
    """processes, ray: seconds that a candidate may take on one split"""
    order: Literal["auto", "generation", "arrival"] = "auto"
    """when the optimizer is told outcomes: after each generation, or at once; auto: generation if
    the optimizer has generations"""
    ray: RayConfig = RayConfig()
    """with kind ray: its cluster and resources"""

    @abstractmethod
    def count_workers(self, evaluation: EvaluationConfig) -> Workers:
        """Return how many workers a search has, and where; ConfigError: they cannot be had."""

    def check(self, evaluation: EvaluationConfig) -> None:
        """Raise a ConfigError if the workers need more than there is."""
        self.count_workers(evaluation)

    @abstractmethod
    def make(self, problem: Any, logbook: Any) -> Any:
        """Return the executor of a run.

        Args:
            problem: the `evomerge.problem.problem.Problem` of the run.
            logbook: its `evomerge.run.logbook.Logbook`.

        Returns:
            An `evomerge.execute.protocol.Executor`.
        """


EXECUTORS: Registry[type[ExecutorKind]] = Registry(
    "executor",
    "evomerge.executors",
    {
        "inline": "evomerge.execute.inline:Inline",
        "processes": "evomerge.execute.processes:Processes",
        "ray": "evomerge.execute.ray:RayActors",
    },
)


def installed_executors() -> dict[str, type[ExecutorKind]]:
    """Return all kinds by name, without those whose package cannot be imported."""
    installed = {}
    for name in EXECUTORS.names():
        with suppress(ConfigError):
            installed[name] = EXECUTORS.get(name)
    return installed


class MissingExecutor(ExecutorKind):
    """The executor of a package that is not installed here: the run can be read."""

    def count_workers(self, evaluation: EvaluationConfig) -> Workers:
        """Refuse to go on."""
        raise ConfigError(
            f"`executor.kind` is {self.kind!r}, which no package here has; install the one that "
            "does, or go on in another way, such as `--set executor.kind=processes`."
        )

    def make(self, problem: Any, logbook: Any) -> Any:
        """Refuse to go on."""
        self.count_workers(problem.config.evaluation)


def executor_of_run(
    section: Mapping[str, Any], kind: str | None, moves: Sequence[str]
) -> Mapping[str, Any] | ExecutorKind:
    """Return the section of a run as it can be parsed here, after the `moves` of a session.

    `kind` was that of the manifest. If it is another one now, the keys that only the old one had
    are left out; if its package is missing or cannot be imported, all that only it has.

    ConfigError: a move is wrong.
    """
    is_kept = section.get("kind") == kind
    if is_kept and (kind is None or kind in installed_executors()):
        return section
    keys = {*ExecutorKind.model_fields, *(move.split("=")[0].split(".")[1] for move in moves)}
    rest = {key: section[key] for key in section.keys() & keys}
    return parsed(MissingExecutor, rest, "executor") if is_kept else rest
