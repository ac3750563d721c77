"""The section `executor` of a search file: where candidates are built and scored."""

from typing import Annotated, Literal

from pydantic import Field

from evomerge.config.fields import Section


class RayConfig(Section):
    """Where Ray runs, and what each worker takes of a machine."""

    address: str | None = Field(None, min_length=1)
    """HOST:PORT of a running cluster; auto: the cluster that this machine belongs to; null: start
    Ray on this machine"""
    resources: dict[str, Annotated[float, Field(gt=0, le=1e6)]] | None = None
    """what a worker takes, such as {GPU: 1, CPU: 4}; fractions of a GPU are allowed; null: a GPU if
    there is one, and a CPU core"""


class ExecutorConfig(Section):
    """The executor that builds and scores candidates."""

    kind: Literal["inline", "processes", "ray"] = "inline"
    """inline: in the process of the search; processes: in processes of their own; ray: in actors of
    Ray, on this machine or a cluster"""
    workers: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = 1
    """number of workers; auto: one for each accelerator, else for each CPU core"""
    timeout: float | None = Field(None, gt=0)
    """processes, ray: seconds that a candidate may take on one split"""
    order: Literal["auto", "generation", "arrival"] = "auto"
    """when the optimizer is told outcomes: after each generation, or at once; auto: generation if
    the optimizer has generations"""
    ray: RayConfig = RayConfig()
    """with kind ray: its cluster and resources"""

    rules = (
        (
            lambda it: it.kind == "inline" and it.workers not in (1, "auto"),
            "has `workers` {0.workers}, but the inline executor has exactly 1; set it to 1, or "
            "`kind` to 'processes'",
        ),
        (
            lambda it: it.kind == "inline" and it.timeout is not None,
            "has `timeout` {0.timeout:g}, but candidates that run in this process cannot be ended; "
            "set `kind` to 'processes', or remove it",
        ),
    )
