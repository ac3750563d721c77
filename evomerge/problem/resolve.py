"""From a search file to a `Problem`: all mistakes that need no model, then all that it names.

No weights are read, and no model is run.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from evomerge.config import messages
from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig, read
from evomerge.config.space import SpaceKind
from evomerge.errors import ConfigError, InputError, RecipeError, among
from evomerge.evaluation.objectives import check_files, check_rows, kinds_of, load, needed_parts
from evomerge.merging.architecture.depth import built_config, merged_config
from evomerge.merging.architecture.loadable import check_buildable, check_loadable
from evomerge.merging.methods import METHODS
from evomerge.merging.tensors.plan import Planner
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import check_causal, check_known, check_tokenizer, parts_of
from evomerge.models.references import check_reference
from evomerge.problem.documents import resolve_documents
from evomerge.problem.memory import check_fit
from evomerge.problem.parents import absolute_config, open_parents, plan_tokenizers
from evomerge.problem.parents_as_themselves import differences
from evomerge.problem.problem import Problem, place, resolve_float32, serves_paths
from evomerge.problem.tasks import find_also, find_constraints, find_objectives
from evomerge.recipe import Recipe
from evomerge.run.folder import CONFIG, MANIFEST, RunFolder
from evomerge.space.protocol import Gene, Space
from evomerge.trust.code import NOTHING, Permissions

Check: TypeAlias = Callable[[SearchConfig, Path], Iterable[str] | None]
"""Yields sentences about mistakes, or raises an InputError; the folder is of relative paths."""

_NEEDED = {"parents": ["zoo:base"], "objectives": [{"told": "score"}]}
"""What stands for keys that are missing or wrong, so that the others can be checked."""


def read_search(data: Mapping[str, Any], source: Path) -> SearchConfig:
    """Return the search file with this content, which `source` names.

    ConfigError: there are mistakes, of each a sentence that names the file, the key and the value.
    """
    config, mistakes = messages.read(SearchConfig, data, _NEEDED)
    if config is not None:
        folder = folder_of(source)
        absolute = absolute_config(config, folder)
        for keys, check in CHECKS:
            places = [tuple(key.split(".")) for key in keys]
            if any(_touches(place or ("mode",), places) for place, _ in mistakes):
                continue  # it may follow from the other mistake
            try:
                mistakes += ((places[0], sentence) for sentence in check(absolute, folder) or ())
            except InputError as error:
                mistakes += [(places[0], sentence) for sentence in str(error).splitlines()]
    if config is None or mistakes:
        raise ConfigError(*(f"{source}: {sentence}" for _, sentence in mistakes))
    return config


def folder_of(source: Path) -> Path:
    """Return the folder that relative paths in a search file start from.

    That of a run is a copy, whose paths start where they did in the user's own file.

    RunFolderError: it is that of a run, and was changed by hand.
    """
    if _is_of_run(source):
        return Path(RunFolder(source.parent).manifest()["folder"])
    return source.absolute().parent


def load_any(path: Path, changes: list[str] | None = None) -> SearchConfig | Record:
    """Read a search file, with `key.path=value` in `changes`, or the record of a run.

    InputError: the file cannot be read, or has a mistake.
    """
    if _is_of_run(path) and not changes:
        return RunFolder(path.parent).record()
    return read_search(read(path, changes), path)


def _is_of_run(file: Path) -> bool:
    return file.name == CONFIG and (file.parent / MANIFEST).is_file()


def _touches(place: messages.Place, keys: Sequence[messages.Place]) -> bool:
    """Return whether a mistake can make what is said of these keys wrong.

    Of a section that is left out, one key alone has its default, which is right.
    """
    return any(
        place[: len(key)] == key or (len(keys) > 1 and key[: len(place)] == place) for key in keys
    )


def _each(names: Iterable[tuple[str, str]], check: Callable[[str], object]) -> Iterator[str]:
    """Yield a sentence about each name that is refused; the keys are in front of them."""
    for key, name in names:
        try:
            check(name)
        except InputError as error:
            yield f"`{key}`: {error}"


def _models(config: SearchConfig, folder: Path) -> Iterator[str]:
    names = [(f"parents[{index}]", name) for index, name in enumerate(config.parents)]
    names += [("base", config.base)] if config.base else []
    return _each(names, lambda name: check_reference(name, folder))


def _hosts(config: SearchConfig, folder: Path) -> Iterator[str]:
    """Yield a sentence about each giver of config, embeddings or head that is no parent."""
    for key, name in config.space.givers.items():
        if name is not None and name not in config.parents:
            yield (
                f"`space.{key}` is {name!r}; it must be one of the parents "
                f"{among(name, config.parents)}"
            )


def _methods(config: SearchConfig, folder: Path) -> Iterator[str]:
    return _each([("space.method", name) for name in config.space.methods], METHODS.check)


def _space_of(config: SearchConfig) -> SpaceKind | None:
    """Return the section `space`; None: the strategy brings its own space."""
    return None if config.optimizer.has_own_space else config.space


def _knobs(config: SearchConfig, folder: Path) -> Iterable[str]:
    return space.check_knobs(config) if (space := _space_of(config)) else ()


def _sources(config: SearchConfig, folder: Path) -> Iterable[str]:
    return space.check_sources(config) if (space := _space_of(config)) else ()


CHECKS: Sequence[tuple[Sequence[str], Check]] = (
    (("parents",), _models),
    (("space.host", "space.outside", "parents"), _hosts),
    (("space.method",), _methods),
    (("space", "parents", "base"), _sources),
    (("space.knobs", "space.method", "space.kind"), _knobs),
    (("optimizer.name",), lambda config, _: config.optimizer.check_name()),
    (("optimizer", "mode", "objectives"), lambda config, _: config.optimizer.check_setting(config)),
    (("optimizer.start", "optimizer.name"), lambda config, at: config.optimizer.check_starts(at)),
    (("evaluation.include", "objectives"), lambda config, _: check_files(config)),
    (("evaluation", "objectives"), lambda config, _: check_rows(config)),
)
"""What is checked, after the keys that it is about: it is left out if one of them is wrong."""

START = "where the search starts"


def resolve(config: SearchConfig, relative_to: Path, allowed: Permissions = NOTHING) -> Problem:
    """Return the problem of a search file, after checking all that it names.

    These are parents, shapes, tasks, metrics, documents.

    The first mistake raises an `InputError`. What `read_search` checks was checked before.
    """
    from evomerge.merging.architecture.attach import make_parts
    from evomerge.merging.architecture.identity import check_identity_layers, has_fixed_layers

    config = absolute_config(config, relative_to)
    checkpoints, host = open_parents(config, relative_to)
    writes = any(kind.writes for kind in kinds_of(config))
    (check_causal if writes else check_known)(checkpoints[host])
    if config.tokenizer == "base":
        check_tokenizer(checkpoints[host])
    _check_models(checkpoints, host)
    needed = needed_parts(config)
    for name, checkpoint in checkpoints.items() if needed else ():
        make_parts(checkpoint, needed if name == host else needed & parts_of(checkpoint))
    space = make_space(config, checkpoints)
    config = config.optimizer.resolve(config, space)

    evaluator = load(config, allowed)
    objectives = find_objectives(config, evaluator)
    constraints = find_constraints(config, evaluator)
    generation = config.optimizer.generation(config, space)  # refuses what cannot be made
    if config.executor.order == "auto":
        has_generations = generation > 1 or config.optimizer.needs_gradients
        order = "generation" if has_generations else "arrival"
        config = config.with_values("executor", order=order)
    config, splits, policy = resolve_documents(config, objectives, evaluator)
    problem = Problem(
        config=config, checkpoints=checkpoints, host=host, space=space, objectives=objectives,
        splits=splits, constraints=constraints, also=find_also(config, evaluator),
        loaded=evaluator,
        fewer_documents=policy, allowed=allowed,
    )  # fmt: skip
    config.optimizer.check(problem)
    config = resolve_float32(config)
    place(config).check(checkpoints[host].config, config.compute)
    config.executor.check(config.evaluation)
    keeps_depth = config.space.keeps_depth and has_fixed_layers(checkpoints, host)
    if serves_paths(config) and not keeps_depth:  # one vLLM engine serves paths of all depths
        check_identity_layers(checkpoints, host)
    start = config.optimizer.starts(space, relative_to)

    recipes = sample_recipes(space)
    every = [*space.baselines().values(), *recipes.values()]
    tokenizers = plan_tokenizers(config, every, checkpoints)
    check_recipes(recipes, checkpoints, host, tokenizers[0].rows)
    problem = replace(problem, config=config, start=start)
    evaluator.check(problem.merges, splits)
    check_fit(problem)
    unlike = differences(problem)
    return replace(problem, unlike_merges=tuple(n for n in problem.config.parents if unlike[n]))


def _check_models(checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Check that transformers can build the host, and the other parents whose types it knows."""
    from evomerge.merging.architecture.loading import is_known

    # Parents with different adapters share a model.
    for checkpoint in {item.folder: item for item in checkpoints.values()}.values():
        config = built_config(checkpoint)
        if checkpoint.folder == checkpoints[host].folder or is_known(config.get("model_type")):
            check_buildable(checkpoint, config)


def make_space(
    config: SearchConfig, checkpoints: Mapping[str, Checkpoint], genes: Sequence[str] = ()
) -> Space:
    """Return the space that a search file asks for.

    Args:
        genes: names of the genes of a resumed run, which keeps them.

    ConfigError: this kind of space does not use a key, or settings do not fit each other or the
    parents.
    """
    own: Space | None = config.optimizer.space(config, checkpoints[config.host])
    if own is not None:
        return own
    made: Space = config.space.make(config, checkpoints, genes)
    return made


def sample_recipes(space: Space) -> dict[str, Recipe]:
    """Return the recipes of three genomes by a description for messages, the start first."""

    def start(gene: Gene) -> float:
        return gene.start if gene.kind == "real" else float(math.floor(gene.start))

    return {
        START: space.decode(tuple(map(start, space.genes))),
        "with every gene at its lowest": space.decode(tuple(gene.low for gene in space.genes)),
        "with every gene at its highest": space.decode(tuple(gene.high for gene in space.genes)),
    }


def check_recipes(
    recipes: Mapping[str, Recipe],
    checkpoints: Mapping[str, Checkpoint],
    host: str,
    vocabulary: MatchedRows | None = None,
) -> None:
    """Plan every tensor of these recipes, and fold the scales of the first one into its weights.

    In others the product of the scales may be too large: the candidate fails, not the space.

    InputError: one of the recipes cannot be built.
    """
    from evomerge.merging.architecture.folding import fold_scales

    planner = Planner(checkpoints, host, vocabulary)
    for name, recipe in recipes.items():
        stacks = recipe.layers.items()
        plain = {prefix: tuple(replace(item, scale=1.0) for item in of) for prefix, of in stacks}
        try:
            deque(planner.plan(replace(recipe, layers=plain)), maxlen=0)
            config = merged_config(recipe, checkpoints, vocabulary=vocabulary)
            check_loadable(config, recipe, checkpoints, vocabulary)
        except RecipeError as error:
            raise ConfigError(
                f"`space` holds recipes that cannot be built, such as the one {name}: {error}"
            ) from error
    try:
        fold_scales(recipes[START], checkpoints[host])
    except RecipeError as error:
        raise ConfigError(
            f"`space.scales` must be nearer to 1, since the recipe {START} cannot be built: {error}"
        ) from error
