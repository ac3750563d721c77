"""What a search file takes over from a mergekit file, or from a config of mergekit-evolve."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError

from evomerge.config.messages import sentence
from evomerge.errors import ConfigError, InputError, listed
from evomerge.mergekit.ranges import SearchParts, components_named, parts_of_merge
from evomerge.mergekit.reading import Keys, read
from evomerge.mergekit.values import Rule
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Method
from evomerge.parsing.texts import yaml_mapping
from evomerge.parsing.values import shown


def search_parts(text: str, file: str) -> SearchParts:
    """Return what a search file takes over from the text of `file`.

    Raises:
        InputError: it is no file of mergekit or mergekit-evolve, or a key or value in it is wrong.
    """
    data = yaml_mapping(text, file, "a file of mergekit or mergekit-evolve", ConfigError)
    if "genome" in data:
        return _parts_of_evolve(data, file)
    if "merge_method" in data:
        try:
            doubts = list[str]()
            return parts_of_merge(read(text, doubts), doubts)
        except InputError as error:
            raise ConfigError(f"{file}: {error}") from error
    raise ConfigError(
        f"{file} has neither `merge_method` nor `genome`, so it is no file of mergekit or "
        f"mergekit-evolve, but has {listed(map(shown, [*data][:5])) or 'no keys'}; give one that "
        "is, or give --parents and --task."
    )


class _Task(Keys):
    name: Annotated[str, Field(min_length=1)]
    metric: str = "acc,none"
    weight: Annotated[float, Field(strict=False)] = 1.0


class _Genome(Keys):
    models: Annotated[list[str], Field(min_length=1)]
    merge_method: str
    base_model: str | None = None
    tokenizer_source: str | None = None
    layer_granularity: int = 0
    normalize: bool | None = None
    allow_negative_weights: bool = False
    filters: list[str] | None = None
    smooth: bool = False


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class _Evolve(Keys):
    genome: _Genome
    tasks: list[Annotated[_Task, BeforeValidator(_named)]]
    limit: Annotated[int, Field(ge=1)] | None = None
    num_fewshot: Annotated[int, Field(ge=0)] | None = None
    apply_chat_template: bool = True
    shuffle: bool = False
    random_init: bool = False
    fewshot_as_multiturn: bool = True


def _parts_of_evolve(data: Mapping[str, Any], file: str) -> SearchParts:
    try:
        evolve = TypeAdapter(_Evolve).validate_python(data)
    except ValidationError as error:
        raise ConfigError(f"{file}: {sentence(error, data)}") from None
    genome = evolve.genome
    try:
        method = get_method(genome.merge_method)
    except InputError as error:
        raise ConfigError(f"{file}: `genome.merge_method`: {error}") from error
    base, parents = genome.base_model, [*dict.fromkeys(genome.models)]
    if base is not None and base in parents:
        parents.remove(base)
        parents = parents if method.base != "none" else [base, *parents]
    notes = [
        f"{shown(key)} in `{where}` is not carried over; mergekit-evolve has no such key."
        for keys, where in ((evolve, file), (genome, "genome"))
        for key in keys.model_extra or ()
    ]
    if method.base == "none" and base is not None and base not in parents:
        notes.append(
            f"`genome.base_model` {base!r} is not carried over, since {method.name} merges no base."
        )
    parts = SearchParts(parents, base if method.base != "none" else None, notes=notes)
    parts.keys["dtype"] = "bfloat16"  # which mergekit-evolve always takes
    tokenizer = genome.tokenizer_source
    if tokenizer is None:
        pass
    elif tokenizer in ("base", "union", *parents, base):
        parts.keys["tokenizer"] = tokenizer
    else:
        notes.append(
            f"`genome.tokenizer_source` {tokenizer!r} is not carried over, since it is no parent."
        )
    parts.space = _genome_space(genome, method, parts)
    parts.blocks_per_group = max(genome.layer_granularity, 0) or None
    for task in evolve.tasks:
        parts.tasks.append({"task": task.name, "metric": task.metric.removesuffix(",none")})
        if task.weight <= 0:
            notes.append(
                f"`weight` {task.weight:g} of the task {task.name} is not carried over; whether "
                "lower is better is known of each metric, or `goal: minimize` says so."
            )
        elif task.weight != 1:
            parts.tasks[-1]["weight"] = task.weight
    if evolve.num_fewshot is not None:
        parts.evaluation["fewshot"] = evolve.num_fewshot
    parts.evaluation["chat_template"] = evolve.apply_chat_template
    parts.limit = evolve.limit
    if evolve.random_init:
        notes.append("`random_init` is not carried over: a search begins in the middle of ranges.")
    if not evolve.fewshot_as_multiturn and evolve.apply_chat_template:
        notes.append(
            "`fewshot_as_multiturn: false` is not carried over: with a chat template, few-shot "
            "examples are turns of a conversation."
        )
    return parts


def _genome_space(genome: _Genome, method: Method, parts: SearchParts) -> dict[str, Any]:
    """Return the section `space` for a genome; `SearchParts.blocks_per_group` has the groups."""
    names = {knob.name for knob in method.knobs}
    knobs: dict[str, Any] = {}
    if "weight" in names:
        knobs["weight"] = [-1.0, 1.0] if genome.allow_negative_weights else [0.0, 1.0]
    if "t" in names:
        knobs["t"] = [0.0, 1.0]
    if "normalize" in names:
        by_method = method.name in ("ties", "dare_ties", "linear")
        knobs["normalize"] = int(by_method if genome.normalize is None else genome.normalize)
    components, has_ends = components_named([Rule(text, (0.0,)) for text in genome.filters or ()])
    is_smooth = genome.smooth and genome.layer_granularity > 0
    if genome.smooth and not is_smooth:
        parts.notes.append(
            "`genome.smooth` is not carried over: without `genome.layer_granularity`, all layers "
            "have the same numbers."
        )
    return {
        "method": method.name,
        "groups": "one",
        **({"smooth": True} if is_smooth else {}),
        **({"components": components} if components else {}),
        "embeddings": has_ends or components == "each",
        "knobs": knobs,
    }
