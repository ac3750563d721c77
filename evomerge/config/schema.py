"""The schema of the search file, with all defaults, and reading one with overrides by `--set`.

`evomerge.problem` checks what it names.
"""

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.executor import EXECUTORS, ExecutorKind
from evomerge.config.fields import OfKind, Rule, Section
from evomerge.config.messages import parsed
from evomerge.config.objectives import ConstraintConfig, MeasuredConfig, ObjectiveConfig
from evomerge.config.optimizer import OPTIMIZER_KINDS, OptimizerConfig
from evomerge.config.space import SPACES, SpaceConfig
from evomerge.errors import ConfigError
from evomerge.parsing.texts import read_text, yaml_mapping, yaml_value
from evomerge.parsing.values import shown
from evomerge.scores import MODEL, TOLD


class BudgetConfig(Section):
    """The bounds of a search; it ends at the first one that it reaches."""

    candidates: int | None = Field(None, ge=1, le=10**9)
    """largest number of candidates, baselines included"""
    hours: float | None = Field(None, ge=0.001)
    """largest working time in hours, over all sessions"""
    target: float | None = None
    """fitness on the search documents at which the search ends"""
    patience: int | None = Field(None, ge=1, le=10**9)
    """number of candidates, one after the other, none of which is better than the best one before
    them, at which the search ends"""

    rules = (
        (
            lambda it: all(bound is None for bound in it.model_dump().values()),
            "needs a bound: candidates, hours, target or patience",
        ),
    )


class SearchConfig(Section):
    """A search file."""

    seed: int = Field(0, ge=0)
    """of the optimizer, of random methods, of document choice"""
    parents: list[Annotated[str, Field(min_length=1)]] = Field(min_length=1)
    """models that are merged: folders, Hub ids (`org/name@revision`), either plus a LoRA adapter
    (`model+adapter`), `file.gguf`, `zoo:NAME`"""
    base: str | None = None
    """model that task vectors are measured from; some methods need one"""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """dtype in which candidates are written, scored and exported"""
    tokenizer: str = "base"
    """base: the host's; union: the tokens of all parents; or a parent"""
    space: SpaceConfig = Field(default_factory=lambda: SPACES.get("parameters").model_validate({}))
    """what is searched, and in which ranges"""
    optimizer: Annotated[OptimizerConfig, OfKind(OPTIMIZER_KINDS, "name", "auto")] = Field(
        default_factory=lambda: OPTIMIZER_KINDS.get("auto")()
    )
    """how it is searched"""
    objectives: list[ObjectiveConfig] = Field(min_length=1)
    """what is maximised"""
    constraints: list[ConstraintConfig] = Field(default_factory=list)
    """what a candidate must keep"""
    mode: Literal["weighted", "pareto"] = "weighted"
    """weighted: one fitness, the weighted mean of the objectives; pareto: all merges that no other
    one beats in every objective (the front)"""
    evaluation: EvaluationConfig = EvaluationConfig()
    """how candidates are scored, on which documents"""
    budget: BudgetConfig = BudgetConfig(candidates=300)
    """when the search ends"""
    executor: Annotated[ExecutorKind, OfKind(EXECUTORS, "kind", "inline")] = Field(
        default_factory=lambda: EXECUTORS.get("inline").model_validate({})
    )
    """the executor that builds and scores candidates"""

    @field_validator("parents")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        for item in value:
            if value.count(item) > 1:
                raise ValueError(f"names {item!r} twice; name each parent once")
        return value

    @field_validator("objectives")
    @classmethod
    def _distinct_objectives(cls, value: list[ObjectiveConfig]) -> list[ObjectiveConfig]:
        pairs = [(item.source, item.metric) for item in value]
        for task, metric in pairs:
            if pairs.count((task, metric)) > 1:
                raise ValueError(
                    f"names {metric!r} of {task!r} twice; name it once, with another weight"
                )
        if all(item.source == MODEL for item in value):
            raise ValueError("names no task, so there is nothing to score; name one")
        return value

    rules = (
        (
            lambda it: it.mode == "pareto" and it.tie_breakers,
            "has {0.tie_breakers[0]}, which orders candidates of equal fitness, but with `mode` "
            "'pareto' there is none; remove it, or add an objective with the metric nll",
        ),
        (
            lambda it: it.mode == "pareto" and len(it.objectives) < 2,
            "has `mode` 'pareto' and one objective in `objectives`, so there is no front; add "
            "another, or set `mode` to weighted",
        ),
        (
            lambda it: it.mode == "pareto" and it.budget.target is not None,
            "has `budget.target` {0.budget.target:g}, which is a fitness, but with `mode` 'pareto' "
            "there is none; remove it",
        ),
        (
            lambda it: it.evaluation.also and it.is_study,
            "has `evaluation.also`, but a study scores nothing in the end; remove it",
        ),
        (
            lambda it: it.also_texts and it.base is None,
            "has `texts` {0.also_texts} in `evaluation.also`, which the base writes, and no "
            "`base`; name one, or remove it",
        ),
        (
            lambda it: it.also_texts and it.evaluation.engine.is_separate,
            "has `texts` {0.also_texts} in `evaluation.also`, which only `backend: hf` scores, and "
            "`evaluation.backend` {0.evaluation.backend}; remove one of the two",
        ),
        (
            lambda it: it.twice,
            "has {0.twice[1]!r} of {0.twice[0]!r} in `evaluation.also` and once more; name it once",
        ),
    )

    @model_validator(mode="after")
    def _distinct_files(self) -> Self:
        known: dict[str, MeasuredConfig] = {}
        for item in self.every_measured:
            first = known.setdefault(item.source, item)
            if first.file != item.file:
                raise ValueError(
                    f"has {first.file!r} and {item.file!r}, and the scores on both would "
                    f"be called {item.source!r}; rename one of the files"
                )
        return self

    @property
    def every_rule(self) -> tuple[Rule, ...]:
        """The rules of every search file, then the rules of this optimizer."""
        return (*self.rules, *self.optimizer.search_rules)

    @property
    def beside_fitness(self) -> str | None:
        """What candidates are compared by besides one fitness; None: nothing."""
        if self.mode != "weighted":
            return f"`mode` is {self.mode}"
        if self.constraints:
            return "there are `constraints`"
        return next((item.replace("` ", "` is ") for item in self.tie_breakers), None)

    @property
    def host(self) -> str:
        """Reference of the host, the parent that gives config and tokenizer."""
        if self.space.host is not None:
            return self.space.host
        if self.base is not None and not self.space.is_path:
            return self.base
        return self.parents[0]

    @property
    def compute(self) -> str:
        """The dtype in which models compute; their weights are rounded to `dtype`."""
        return "float32" if self.evaluation.float32 is True else self.dtype

    @property
    def is_fresh(self) -> bool:
        """Whether each generation has search documents of its own."""
        return isinstance(self.evaluation.search.fresh, int)

    @property
    def tie_breakers(self) -> list[str]:
        """The keys of objectives that break ties, with their values."""
        return [
            f"`objectives[{place}].tie_breaker` {item.tie_breaker}"
            for place, item in enumerate(self.objectives)
            if item.tie_breaker is not None
        ]

    @property
    def tasks(self) -> list[str]:
        """What the objectives and constraints are scored on, each once; see `rows`."""
        return _sources((*self.objectives, *self.constraints))

    @property
    def every_task(self) -> list[str]:
        """The tasks of objectives, constraints and `evaluation.also`, each once."""
        return _sources(self.every_measured)

    @property
    def every_measured(self) -> tuple[MeasuredConfig, ...]:
        """The objectives, the constraints and `evaluation.also`."""
        return (*self.objectives, *self.constraints, *self.evaluation.also)

    @property
    def also_texts(self) -> int | None:
        """Number of texts that the base writes; None: it writes none."""
        return next((each.texts for each in self.evaluation.also if each.texts is not None), None)

    @property
    def twice(self) -> tuple[str, str] | None:
        """Task and metric of `evaluation.also` that are named twice; None: there are no such."""
        pairs = [(each.source, each.metric) for each in self.every_measured]
        of_also = [(each.source, each.metric) for each in self.evaluation.also]
        return next((pair for pair in of_also if pairs.count(pair) > 1), None)

    @property
    def is_study(self) -> bool:
        """Whether candidates are scored by whoever asks for them; see `evomerge.Study`."""
        return any(item.source == TOLD for item in (*self.objectives, *self.constraints))

    @property
    def rows(self) -> dict[str, tuple[str, str]]:
        """Those of `every_task` whose documents are rows -> what these are; their file."""
        return {
            item.source: (item.rows, file)
            for item in self.every_measured
            if item.rows is not None and (file := item.file) is not None
        }

    def with_values(self, section: str, **values: Any) -> Self:
        """Return the same search file with other values in one of its sections."""
        changed = getattr(self, section).model_copy(update=values)
        return self.model_copy(update={section: changed})

    @property
    def fitness_values(self) -> int:
        """How many values an optimizer learns of a candidate; of a front one an objective."""
        return len(self.objectives) if self.mode == "pareto" else 1


def _sources(measured: Iterable[MeasuredConfig]) -> list[str]:
    """Return the tasks of what is measured, each once."""
    sources = (each.source for each in measured)
    return [name for name in dict.fromkeys(sources) if name not in (MODEL, TOLD)]


def parse(data: Any, source: str) -> SearchConfig:
    """Return the search file with this content; `source` names it in messages.

    Raises:
        ConfigError: of each mistake a sentence that names the file, the key and the value.
    """
    return parsed(SearchConfig, data, source)


def load(path: Path, overrides: list[str] | None = None) -> SearchConfig:
    """Read a search file, with `key.path=value` overrides; ConfigError: it has a mistake."""
    return parse(read(path, overrides), str(path))


def read(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Return the mapping in a search file, with `key.path=value` overrides.

    Raises:
        ConfigError: the file cannot be read or is not a mapping, or an override is wrong.
    """
    missing = (
        f"{path} does not exist; `evomerge init {shlex.quote(str(path))}` writes one to start from."
    )
    text = read_text(path, ConfigError, missing)
    data = yaml_mapping(text, str(path), "a search file", ConfigError)
    _check_kind(data, path)
    for item in overrides or []:
        override(data, item)
    return data


def _check_kind(data: Mapping[str, Any], path: Path) -> None:
    """Raise a `ConfigError` if a file is one of another tool, or a recipe, by its keys."""
    if "objectives" in data:
        return
    quoted = shlex.quote(str(path))
    merge = f"`evomerge merge {quoted} --out DIR` builds its model"
    mixture = f"`mergekit-moe {quoted} DIR` makes its mixture of experts, a parent"
    start = "`evomerge init` writes a search file to start from"
    keys_here = f"docs/from-other-tools.md has its keys beside those of a search file, and {start}"
    drafted = f"`evomerge init search.yaml --from {quoted}"
    for kind, keys, fix in (
        ("a config of mergekit-evolve", {"genome"}, f"{drafted}` writes the search file for it"),
        ("a config of mergenetic", {"pop_size", "n_iter"}, keys_here),
        (
            "a mergekit file",
            {"merge_method"},
            f"{merge}, and {drafted} --task TASK` writes a search file with ranges around its "
            "numbers",
        ),
        ("a file of mergekit-moe", {"experts"}, f"{mixture}, and {start}"),
        ("a recipe", {"layers", "host"}, f"{merge}, and {start}"),
    ):
        if keys <= data.keys():
            raise ConfigError(f"{path} is {kind}, and no search file; {fix}.")


def override(data: dict[str, Any], item: str) -> None:
    """Replace a value of a search file by that of an item `key.path=value`; make missing mappings.

    Raises:
        ConfigError: the item is of another form, or there is no such place.
    """
    path, separator, text = item.partition("=")
    if not separator or not path:
        raise ConfigError(f"--set {shown(item)} is not of the form key.path=value.")
    value = yaml_value(text, f"--set {shown(item)}", ConfigError)
    target: Any = data
    *above, last = path.split(".")
    for key in above:
        index = _index(target, key, item)
        if isinstance(target, dict):
            target.setdefault(index, {})
        target = target[index]
    target[_index(target, last, item)] = value


def _index(target: Any, key: str, item: str) -> str | int:
    """Return the key of a mapping, or the index of a list, that a part of a path means."""
    if isinstance(target, dict):
        return key
    if not isinstance(target, list):
        raise ConfigError(
            f"--set {shown(item)}: {shown(key)} does not exist, since a plain value has no keys."
        )
    if key not in map(str, range(len(target))):
        raise ConfigError(
            f"--set {shown(item)}: {shown(key)} must be an index from 0 to {len(target) - 1} of a "
            "list."
        )
    return int(key)
