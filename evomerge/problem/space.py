"""The search space that a search file asks for, made for the opened parents."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from evomerge.config.schema import SearchConfig
from evomerge.config.space import (
    AnyPathConfig,
    DroppingConfig,
    FrankenmergeConfig,
    OutsideConfig,
    ParametersConfig,
    PathConfig,
    SwapsConfig,
)
from evomerge.errors import ConfigError, RecipeError, SearchError, among
from evomerge.evaluation.objectives import needed_parts
from evomerge.merging.architecture.depth import merged_config
from evomerge.merging.architecture.loadable import check_loadable
from evomerge.merging.methods import get_method
from evomerge.merging.tensors.plan import Planner
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.parts import has_read_head, merged_stacks, shared_modalities, stack_names
from evomerge.models.stacks import Stack, component_filters, tensor_filters
from evomerge.recipe import Layer, Recipe, Source
from evomerge.run.history import Candidate
from evomerge.space.parameters import BlockStack, ParameterSpace
from evomerge.space.paths.slices import SliceSpace
from evomerge.space.paths.slots import SlotSpace
from evomerge.space.paths.swaps import SwapSpace
from evomerge.space.protocol import Gene, Space

START = "where the search starts"


def host_of(config: SearchConfig) -> str:
    """Return the reference of the host, the parent that gives config and tokenizer."""
    if config.space.host is not None:
        return config.space.host
    if config.space.kind == "parameters" and config.base is not None:
        return config.base
    return config.parents[0]


def make_space(
    config: SearchConfig, checkpoints: Mapping[str, Checkpoint], genes: Sequence[str] = ()
) -> Space:
    """Return the space that a search file asks for.

    Args:
        genes: names of the genes of a run that goes on, which keeps them.

    ConfigError: this kind of space does not use a key, or settings do not fit each other or the
    parents.
    """
    host = checkpoints[host_of(config)]
    own: Space | None = config.optimizer.space(config, host)
    if own is not None:
        return own
    wanted, frame, stack = config.space, _frame(config, host), host.decoder_stack
    if isinstance(wanted, ParametersConfig):
        _check_depths(checkpoints, host)
        try:
            methods = list(map(get_method, wanted.methods))
        except RecipeError as error:
            raise ConfigError(f"`space.method`: {error}") from error
        is_read = not needed_parts(config) or has_read_head(host)
        filters = tensor_filters if wanted.components == "each" else component_filters
        return ParameterSpace(
            wanted,
            methods,
            parents=config.parents,
            base=config.base,
            frame=frame,
            stacks=_stacks(host, filters),
            modalities=shared_modalities(checkpoints, host.reference),
            has_head=any(name.startswith("head.") for name in genes) if genes else is_read,
        )
    if wanted.scales != 1.0:  # scales are folded into weights
        from evomerge.merging.architecture.folding import rules_for

        rules_for(host, stack.prefix)
    depths = {name: len(checkpoints[name].decoder_stack) for name in config.parents}
    return path_space(wanted, depths, frame, stack.prefix)


def _stacks(
    host: Checkpoint, filters: Callable[[Stack], Mapping[str, Sequence[str]]]
) -> list[BlockStack]:
    """Return the block stacks of merges, the decoder's last."""
    return [
        BlockStack(stack.prefix, len(stack), filters(stack), name)
        for name, stack in zip(stack_names(host), merged_stacks(host).values(), strict=True)
    ]


def path_space(
    config: AnyPathConfig, depths: Mapping[str, int], frame: Recipe, stack: str
) -> Space:
    """Return the data-flow space of a variant; see `PathSpace`."""
    match config:
        case FrankenmergeConfig():
            return SliceSpace(config, depths, frame, stack)
        case SwapsConfig():
            return SwapSpace(config, depths, frame, stack)
        case DroppingConfig():
            depths = {frame.host: depths[frame.host]}
    return SlotSpace(config, depths, frame, stack)


def _check_depths(checkpoints: Mapping[str, Checkpoint], host: Checkpoint) -> None:
    """Check that all parents have as many layers as the host, since these are merged in pairs."""
    names = stack_names(host)
    for name, checkpoint in checkpoints.items():
        theirs = TensorNameMap(host, checkpoint).stacks
        for called, (prefix, stack) in zip(names, merged_stacks(host).items(), strict=True):
            if (own := len(theirs.get(prefix, ()))) != len(stack):
                of_stack = "" if stack is host.decoder_stack else f" in its {called}"
                raise ConfigError(
                    f"Parent {name!r} has {own} layers{of_stack}, but the host "
                    f"{host.reference!r} has {len(stack)}, and `space.kind` 'parameters' merges "
                    "them in pairs; give parents with as many layers, or set the kind to "
                    "'dataflow', which searches a path through them."
                )


def _frame(config: SearchConfig, host: Checkpoint) -> Recipe:
    """Return a recipe without layers, to which a space adds them."""
    outside = _outside(config)
    base = [config.base] if config.base else []
    # With the host's tokenizer, the rows of embeddings are not matched by token.
    vocabulary = () if config.tokenizer == "base" else dict.fromkeys([*base, *config.parents])

    def whole(parent: str | None) -> Layer:
        return Layer("passthrough", (Source(parent or host.reference),))

    return Recipe(
        host=host.reference,
        layers={},
        embeddings=whole(outside.embeddings),
        head=whole(outside.head),
        dtype=config.dtype,
        tokenizer=config.tokenizer,
        vocabulary=tuple(vocabulary),
        seed=config.seed,
    )


def _outside(config: SearchConfig) -> OutsideConfig:
    section = config.space.outside if isinstance(config.space, PathConfig) else None
    return section or OutsideConfig()


def check_hosts(config: SearchConfig) -> Iterator[str]:
    """Yield a sentence about each giver of config, embeddings or head that is no parent."""
    outside = {f"outside.{key}": name for key, name in _outside(config)}
    for key, name in {"host": config.space.host, **outside}.items():
        if name is not None and name not in config.parents:
            yield (
                f"`space.{key}` is {name!r}; it must be one of the parents "
                f"{among(name, config.parents)}"
            )


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


def recipe_of(space: Space, candidate: Candidate) -> Recipe:
    """Return a candidate's recipe, made again from its origin.

    SearchError: its digest is not the one in the journal.
    """
    label, genome = candidate.label, tuple(candidate.origin.get("genome", ()))
    recipe: Recipe | None
    try:
        recipe = space.decode(genome) if label is None else space.baselines().get(label)
    except (ValueError, IndexError):
        recipe = None
    if recipe is None or recipe.digest != candidate.digest:
        raise SearchError(
            f"Candidate {candidate.number} no longer decodes to the recipe it was scored with; "
            "use the evomerge version that the run's manifest.json names."
        )
    return recipe
