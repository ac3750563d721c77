"""Single models from Python: compared before they are merged, merged, scored."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any, overload

from evomerge.api.search import content_of
from evomerge.errors import InputError
from evomerge.evaluation.tasks.info import sampling_note
from evomerge.export.checkpoint import merge_recipe
from evomerge.merging.architecture.naming import fitting
from evomerge.merging.compare import ParentComparison, compare_parents
from evomerge.models.references import open_parent
from evomerge.parsing.values import path_of, shown
from evomerge.problem.parents import absolute_parent
from evomerge.problem.problem import Problem
from evomerge.problem.resolve import load_any, read_search
from evomerge.problem.runs import prepare
from evomerge.problem.tasks import task_facts
from evomerge.recipe import Recipe
from evomerge.report.confidence import Interval, factor_of, intervals
from evomerge.run.atomic import TemporaryFolder
from evomerge.run.ranking import measured
from evomerge.scores import Scores
from evomerge.searching.run import evaluate as score_documents
from evomerge.searching.run import evaluate_recipes
from evomerge.trust.code import Permissions
from evomerge.words import short_names


def merge(
    recipe: Recipe | str | PathLike[str],
    out: str | PathLike[str],
    *,
    memory: str = "8GB",
    shard_size: str = "5GB",
    strict: bool = False,
    truncate: bool = False,
) -> Path:
    """Write the model of a recipe as an ordinary Hugging Face checkpoint, out of core.

    `recipe` is a recipe, or the path of a recipe file or of a mergekit config; `out` the folder to
    create, which is returned. Merging takes at most `memory`, and a weight file `shard_size`.

    Args:
        strict: refuse a mergekit config with something that mergekit ignores.
        truncate: cut embeddings and head to the rows that all parents have, if no tokenizer is
            given (`--unsafe-truncate-embeddings` of the command).

    Raises:
        InputError: the recipe, a parent or an option is wrong, or `out` exists.
        CandidateError: the merged weights are not finite.
    """
    target = path_of(out, "out")
    allowed = {"strict": strict, "truncate": truncate}
    with TemporaryFolder() as folder:
        file = folder / "recipe.yaml"
        if isinstance(recipe, Recipe):
            file.write_text(recipe.to_yaml(), encoding="utf-8")
        else:
            file = path_of(recipe, "recipe")
        notes = merge_recipe(file, target, memory, shard_size, **allowed)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return target


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on the documents of a split.

    Attributes:
        model: its reference.
        split: `search`, `validation` or `test`.
        scores: what was measured, with the answers that were asked for.
        intervals: `task/metric` -> the score with its 95 % interval.
        note: why the scores of lm-eval itself differ, if they do.
    """

    model: str
    split: str
    scores: Scores
    intervals: dict[str, Interval]
    note: str | None

    def rows(self) -> list[tuple[str, str]]:
        """Return each score with its interval, as people read it."""
        return [(k, v.text(factor_of([v.value], k))) for k, v in self.intervals.items()]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "model": self.model,
            "split": self.split,
            "documents": self.scores.fidelity,
            "scores": {key: interval.to_dict() for key, interval in self.intervals.items()},
            "examples": [asdict(example) for example in self.scores.examples],
        }


def score_model(problem: Problem, model: str, split: str, examples: int = 0) -> Evaluation:
    """Score any model on the documents of a search, with `examples` answers of each task."""
    scores = score_documents(problem, model, split, examples)
    note = sampling_note(task_facts(problem.config, problem.evaluator)["sampled"])
    return Evaluation(model, split, scores, intervals(measured(problem.ranking), scores), note)


@overload
def evaluate(
    model: str | PathLike[str] | Recipe,
    config: str | PathLike[str] | Mapping[str, Any],
    split: str = ...,
    *,
    allow_code: bool = ...,
    trust_code: bool = ...,
) -> dict[str, Interval]: ...


@overload
def evaluate(
    model: Sequence[Recipe],
    config: str | PathLike[str] | Mapping[str, Any],
    split: str = ...,
    *,
    allow_code: bool = ...,
    trust_code: bool = ...,
) -> list[dict[str, Interval]]: ...


def evaluate(
    model: str | PathLike[str] | Recipe | Sequence[Recipe],
    config: str | PathLike[str] | Mapping[str, Any],
    split: str = "test",
    *,
    allow_code: bool = False,
    trust_code: bool = False,
) -> dict[str, Interval] | list[dict[str, Interval]]:
    """Score any model (folder, Hub id, `zoo:NAME`), or recipes, on the documents of a search.

    Args:
        model: a model, or recipes of the search's parents, such as `run.recipe()`: they are built
            in memory, one after the other, as a search builds candidates. Give those of a landscape
            in one list, since each call loads the parents and tasks.
        config: path of a search file or of a run's `search.yaml`, or its content.
        split: `search`, `validation` or `test`.
        allow_code: see `search`.
        trust_code: see `search`.

    Returns:
        `task/metric` -> the score with its 95 % interval (`value`, `low`, `high`); of several
        recipes a list.

    Raises:
        InputError: there is no such model or split, the search file is wrong, or a recipe has a
            parent that the search does not have.
        CandidateError: a recipe's model cannot be built or scored.
    """
    recipes = None if isinstance(model, str | PathLike) else _recipes(model)
    allowed = Permissions(allow_code, trust_code)
    if isinstance(config, Mapping):
        problem = prepare(read_search(*content_of(config)), Path.cwd(), allowed)
    else:
        file = path_of(config, "config", ", or a mapping")
        problem = prepare(load_any(file), file.parent, allowed)
    if recipes is None:
        return score_model(problem, str(model), split).intervals
    objectives = measured(problem.ranking)
    every = [intervals(objectives, one) for one in evaluate_recipes(problem, recipes, split)]
    return every[0] if isinstance(model, Recipe) else every


def _recipes(model: Any) -> list[Recipe]:
    """Return the recipes that `evaluate` was given; InputError: something else."""
    recipes = list(model) if isinstance(model, Sequence) else [model]
    others = [one for one in recipes if not isinstance(one, Recipe)]
    if others or not recipes:
        what = f"{shown(others[0])} in place of a recipe" if others else "no recipe"
        raise InputError(
            f"model has {what}; give one model (a folder, a Hub id, `zoo:NAME`), a recipe, or a "
            "list of recipes."
        )
    return recipes


def compare(
    parents: Sequence[str | PathLike[str]],
    base: str | PathLike[str] | None = None,
) -> ParentComparison:
    """Compare the weights, tokenizers and chat templates of parents.

    All weights are read once, and none are kept; no model is loaded. `to_dict()` of the comparison
    is what `evomerge compare --json` prints.

    Args:
        parents: as in a search file: a folder, a Hub id, `zoo:NAME`, each with
            `+ADAPTER` or not. With a base, also the folder of an adapter (LoRA) of this base.
        base: what the parents were trained from. Without it, it is not known what they changed.

    Raises:
        InputError: a model is missing or damaged, or their tensors do not fit.
    """
    if isinstance(parents, str) or not isinstance(parents, Iterable):
        raise InputError(
            f"parents is {shown(parents)}; give a list of models, as [{shown(str(parents))}]."
        )
    origin = None if base is None else absolute_parent(str(base), Path.cwd())
    paths = [absolute_parent(_on_base(str(parent), origin), Path.cwd()) for parent in parents]
    if twice := next((item for item in paths if paths.count(item) > 1), None):
        raise InputError(f"The parent {twice!r} is given twice; give each parent once.")
    names = [*([] if origin is None else [origin]), *paths]
    if not paths or len(set(names)) < 2:
        raise InputError(
            f"There is one model only ({', '.join(dict.fromkeys(names))}), and nothing to compare "
            "it with; give another parent, or a base."
        )
    opened = {name: open_parent(name, Path.cwd()) for name in dict.fromkeys(names)}
    sizes = {item.vocabulary for item in opened.values()}
    models = fitting(opened, names[0], vocabularies=len(sizes) == 1)
    first = None if origin is None else models[origin]
    return compare_parents(first, [models[name] for name in paths], short_names(names))


def _on_base(parent: str, base: str | None) -> str:
    """Return a parent's reference; for the folder of an adapter, the base with this adapter."""
    folder = Path(parent)
    is_adapter = (folder / "adapter_config.json").is_file() and not (
        folder / "config.json"
    ).is_file()
    return f"{base}+{parent}" if is_adapter and base is not None else parent
