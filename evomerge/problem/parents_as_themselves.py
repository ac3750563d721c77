"""Parents as they are themselves, which a recipe of the space, with the host's settings, is not.

On search documents the baseline of a parent has the config, tokenizer and chat template of the
merges, since the optimizer needs the value of its genome. On validation and test documents it is
the parent itself that is scored, and it is the parent itself that is written if it wins.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from evomerge.errors import CheckpointError, listed
from evomerge.evaluation.objectives import needed_parts, uses_templates
from evomerge.merging.tokenizers.plan import GENERATION
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import TOKENIZER_FILES
from evomerge.models.parts import has_tokenizer, merged_stacks, part_differences, parts_of
from evomerge.parsing.texts import json_value
from evomerge.problem.problem import Problem, recipe_of
from evomerge.recipe import Recipe
from evomerge.run.history import BASE, Candidate
from evomerge.words import short_names

_WITHOUT_EFFECT = frozenset(
    {"_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)
"""Keys of a config that change no score."""


def recipe_to_write(problem: Problem, candidate: Candidate) -> Recipe:
    """Return the recipe of what is exported for a candidate: of a parent, the parent itself.

    A parent without a tokenizer or chat template has the one of the merges, which it is scored
    with.

    SearchError: the digest of the candidate's recipe is not the one in the journal.
    """

    if not is_itself(problem, candidate):
        return recipe_of(problem.space, candidate)
    recipe, giver = unchanged_parent(problem, str(candidate.label)), problem.tokenizer_giver
    part = _lent_part(problem, recipe.host)
    if part == "tokenizer":  # only `tokenizer: base` takes parents without one
        return replace(recipe, tokenizer=giver, vocabulary=(giver,))
    if part is not None:
        text = problem.checkpoints[giver].chat_template or ""
        return replace(recipe, options={"chat_template": text})
    return recipe


def is_itself(problem: Problem, candidate: Candidate) -> bool:
    """Return whether a parent itself is exported for a candidate; see `_borrows`."""
    label = candidate.label
    return label in problem.config.parents and not _borrows(problem, str(label))


def _borrows(problem: Problem, reference: str) -> bool:
    """Return whether a parent is scored and exported as a merge: with parts of the host."""
    parent, host = problem.checkpoints[reference], problem.checkpoints[problem.host]
    if parent.lacks or needed_parts(problem.config) - parts_of(parent):
        return True
    missing = parts_of(host) - parts_of(parent)
    return bool(missing) and any(missing & it.needed_parts() for it in problem.evaluator.every)


def unchanged_parent(problem: Problem, reference: str) -> Recipe:
    """Return the recipe of a parent itself, in the dtype that it is stored in."""
    from evomerge.merging.writer import stored_dtype, unchanged

    checkpoint = problem.checkpoints[reference].as_stored
    return unchanged(checkpoint, stored_dtype(checkpoint, problem.config.dtype))


def parent_itself(problem: Problem, candidate: Candidate) -> Recipe | None:
    """Return the recipe of the parent itself that is scored for a candidate in the finals.

    None: the candidate is no parent, or its own recipe builds the parent itself.
    """
    label = candidate.label
    if label is None or not (label in problem.unlike_merges or candidate.number == BASE):
        return None
    return unchanged_parent(problem, label)


def base_to_test(problem: Problem) -> list[Candidate]:
    """Return the base, if it is no parent and can be scored as it is."""
    base = problem.config.base
    if base is None or base in problem.config.parents or _borrows(problem, base):
        return []
    return [Candidate(BASE, base, unchanged_parent(problem, base).digest)]


def _lent_part(problem: Problem, reference: str) -> str | None:
    """Return what a parent takes from the merges; None: it has all that the tasks need."""

    if not has_tokenizer(parent := problem.checkpoints[reference]):
        return "tokenizer"
    giver = problem.checkpoints[problem.tokenizer_giver]
    is_without = uses_templates(problem.config) and parent.chat_template is None
    return "chat template" if is_without and giver.chat_template is not None else None


def prompt_template(problem: Problem) -> str | None:
    """Return the chat template that prompts of the merges may have; None: there is no such."""
    are_prompted = any(item.has_answers for item in problem.evaluator.every)
    return problem.checkpoints[problem.tokenizer_giver].chat_template if are_prompted else None


def parent_notes(problem: Problem) -> Iterator[str]:
    """Yield a sentence for each parent that differs, or that takes a part from the merges."""
    names, unlike = short_names(problem.checkpoints), differences(problem)
    for name in problem.config.parents:
        if keys := unlike[name]:
            yield (
                f"{names[name]} is not like the merges in {listed(keys)}; its final scores are of "
                "the parent as it is."
            )
        if part := _lent_part(problem, name):
            yield (
                f"{names[name]} has no {part} and takes that of {names[problem.tokenizer_giver]}, "
                "also on validation and test documents and in the export of a parent that wins."
            )


def differences(problem: Problem) -> dict[str, list[str]]:
    """Return for each parent what of it is not that of the merges; no weights are read."""
    from evomerge.merging.writer import stored_dtype

    config, checkpoints = problem.config, problem.checkpoints
    host, giver = checkpoints[problem.host], checkpoints[problem.tokenizer_giver]
    baselines, plan = problem.space.baselines(), problem.tokenizer_plan
    needed, templated = needed_parts(config), uses_templates(config)
    generation, rows = plan.files.get(GENERATION, host.generation), plan.rows

    def of(name: str, parent: Checkpoint) -> list[str]:
        if _borrows(problem, name):
            return []  # only a merge has all parts that it is scored with
        own, merged = _settings(parent.config), _settings(host.config)
        keys = [key for key in {**own, **merged} if own.get(key) != merged.get(key)]
        keys += part_differences(parent, host, needed)
        files, template = _tokenizer_files(parent), parent.chat_template
        is_other = rows is not None and rows.index.get(name) != tuple(range(rows.size))
        tokenizer = is_other or bool(plan.files) or files != _tokenizer_files(giver)
        is_templated = templated and template is not None
        unlike = {
            "generation_config.json": _generation(parent.generation) != _generation(generation),
            "tokenizer": bool(files) and tokenizer,
            "chat template": is_templated and template != giver.chat_template,
            "the parts that only the host gives to merges": _has_parts_of_host(
                parent, host, baselines.get(name)
            ),
            "dtype": stored_dtype(parent, config.dtype) != config.dtype,
        }
        return [*keys, *(key for key, is_unlike in unlike.items() if is_unlike)]

    return {name: of(name, parent) for name, parent in checkpoints.items()}


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in config.items() if key not in _WITHOUT_EFFECT}


def _generation(text: str | None) -> Any:
    """Return the content of a generation config without what changes no text."""
    content = json_value(text or "{}", "generation_config.json", CheckpointError)
    return _settings(content) if isinstance(content, dict) else content


def _tokenizer_files(checkpoint: Checkpoint) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in checkpoint.companions
        if file.name in TOKENIZER_FILES and not file.name.startswith("chat_template")
    }


def _has_parts_of_host(parent: Checkpoint, host: Checkpoint, baseline: Recipe | None) -> bool:
    """Whether the baseline of a parent has a tower or a stack of the host, or lacks its own."""
    merged = {*baseline.modalities, *baseline.layers} if baseline else set()
    parts = {*parent.modalities, *host.modalities, *(merged_stacks(host) if baseline else ())}
    return parent is not host and not parts <= merged
