"""The section `optimizer` of the search file."""

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from evomerge.config.fields import Section

GRADIENT = "gradient"
"""Name of the strategy that descends."""


class FormConfig(Section):
    """How reference answers are written for the loss of descents."""

    delimiter: bool = True
    """whether the task's `target_delimiter`, mostly a blank, comes before it"""
    end: Literal["token", "stop", "none"] = "token"
    """what comes after it: the end token, the task's first stop string, or nothing"""


def _forms_of(value: Any) -> str:
    """Return whether a value is the form of all tasks, or has one for each of some tasks."""
    is_by_task = isinstance(value, dict) and value
    forms = (dict, FormConfig)
    return "tasks" if is_by_task and all(isinstance(it, forms) for it in value.values()) else "all"


FormsConfig: TypeAlias = Annotated[
    Annotated[FormConfig, Tag("all")] | Annotated[dict[str, FormConfig], Tag("tasks")],
    Discriminator(_forms_of),
]


class OptimizerConfig(Section):
    """The optimizer that proposes genomes."""

    name: str = "auto"
    """one of `evomerge list optimizers`, or `nevergrad:` and a name of nevergrad's registry; auto:
    by the genes, the budget and the number of objectives of a front"""
    population: Annotated[int, Field(ge=2, le=10_000)] | Literal["auto"] = "auto"
    """candidates of a generation; auto: as the optimizer recommends"""
    sigma: float = Field(1 / 6, gt=0, le=1)
    """initial step size, as a fraction of a gene's range"""
    options: dict[str, Any] = Field(default_factory=dict)
    """further options of this optimizer"""
    start: list[Annotated[str, Field(min_length=1)]] = Field(default_factory=list)
    """what is tried first, after the baselines: the best candidates of other runs (`run:DIR`)"""
    steps: int | None = Field(None, ge=1, le=10000)
    """of a descent: steps; null: 60"""
    batch: int | None = Field(None, ge=1, le=10000)
    """of a descent: documents of a step; null: 16"""
    rate: float | None = Field(None, gt=0, le=1)
    """of a descent: length of the first steps, as a share of a gene's range; null: 0.03"""

    loss: Literal["reference", "successes", "experts"] | None = None
    """of a descent: what it learns; reference: the tasks' reference answers; successes: answers of
    parents and candidates that scored right; experts: what the best parent on each task finds
    likely; null: reference"""

    form: FormsConfig | None = None
    """of a descent: how reference answers are written, of all tasks or of some (name: form); null:
    as the parents prefer, for each task"""

    rules = (
        *(
            (
                lambda it, key=key: getattr(it, key) is not None and not it.descends,
                f"has `{key}`, which only a descent has, but its `name` is {{0.name!r}}; remove "
                "it, or set `name` to gradient",
            )
            for key in ("steps", "batch", "rate", "loss", "form")
        ),
        *(
            (
                lambda it, key=key, default=default: it.descends and getattr(it, key) != default,
                f"has `{key}`, which has no effect where `name` is gradient; remove it",
            )
            for key, default in (("sigma", 1 / 6), ("options", {}), ("start", []))
        ),
    )

    @property
    def forms(self) -> dict[str, FormConfig]:
        """The forms of answers that are given, by task; `*` stands for all of them."""
        return {"*": self.form} if isinstance(self.form, FormConfig) else self.form or {}

    @property
    def size(self) -> int | None:
        """The population; None: as the optimizer recommends."""
        return None if self.population == "auto" else self.population

    @property
    def descends(self) -> bool:
        """Whether the search goes against the gradient of a loss."""
        return self.name == GRADIENT
