"""Writing a mixture of experts from a file of mergekit-moe (`evomerge moe`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import RecipeError
from evomerge.export.card import CARD, block, code, fingerprints_of, licence_of, plain
from evomerge.export.metadata import card_data
from evomerge.export.parents import Parent, describe_parents
from evomerge.export.recipe import absolute_name, start_of
from evomerge.mergekit.moe import read_mixture, renamed_mixture
from evomerge.merging.mixtures.mixture import Expert, Mixture
from evomerge.models.causal import check_causal, check_tokenizer
from evomerge.parsing.texts import read_text
from evomerge.run.atomic import TemporaryFolder, check_new_folder
from evomerge.setup.merges import MergeOpener
from evomerge.setup.runs import open_model

if TYPE_CHECKING:
    from evomerge.merging.kernels.compiled import Array

CONFIG = "mergekit_moe_config.yml"
"""The file of the mixture beside its weights, as mergekit names it."""

_NEAR = 0.95
"""Cosine of two routers from which on they send the same tokens to two experts."""


def write_mixture(
    file: Path, out: Path, seed: int, shard_size: str, *, allow_pickle: bool = False
) -> tuple[str, ...]:
    """Write the mixture of a file; sentences about what may be wrong with it are returned.

    For arguments and errors see `evomerge.moe`.
    """
    from evomerge.merging.backend import bytes_of, stored_dtype, unchanged, write
    from evomerge.merging.mixtures.build import MixtureBuilder
    from evomerge.merging.mixtures.routers import make_routers
    from evomerge.merging.mixtures.shapes import shape_of

    check_new_folder(out)
    bytes_of(shard_size, "--shard-size")
    text = read_text(file, RecipeError)
    mixture = read_mixture(text, str(file))
    with TemporaryFolder() as inner:
        opener = MergeOpener(open_model, models=inner / "models")
        checkpoints = {
            name: opener(name, start_of(name, file), allow_pickle=allow_pickle)
            for name in mixture.models
        }
        base = checkpoints[mixture.base]
        check_causal(base)
        shape = shape_of(mixture, checkpoints)
        dtype = mixture.dtype or stored_dtype(base, "bfloat16")
        if dtype == "float64":
            raise RecipeError(
                f"`base_model` {mixture.base!r} is stored in float64, in which transformers "
                "computes no experts; set `dtype` to float32, bfloat16 or float16."
            )
        builder = MixtureBuilder(mixture, shape, checkpoints)
        if mixture.needs_prompts:
            check_tokenizer(base)
        routers = make_routers(mixture, base, seed)
        mixed, patch = builder.checkpoint(routers, seed, inner / "routers.safetensors")
        parents = describe_parents(mixture.models, checkpoints, opener.named)
        names = {name: absolute_name(name, file) for name in mixture.models}
        card = _card(mixture, shape.name, parents, seed)
        written = write(
            unchanged(mixed, dtype),
            {mixed.reference: mixed},
            out,
            shard_size=shard_size,
            texts={CARD: card, CONFIG: renamed_mixture(text, names)},
            patches={mixed.reference: patch} if patch else None,
        )
    return (*written, *_doubts(mixture, routers))


def _doubts(mixture: Mixture, routers: Array) -> list[str]:
    """Return what lets a mixture do no more than a dense model, in sentences."""
    from evomerge.merging.mixtures.routers import largest_cosines

    count, notes = len(mixture.experts), []
    if len({(e.model, e.residual_scale, e.noise_scale) for e in mixture.experts}) == 1:
        notes.append(
            "All experts are the same model, so whatever its routers do the mixture computes what "
            "the base with these MLPs computes, until it is trained or merged with others."
        )
    elif mixture.per_token < count:
        near = int((largest_cosines(routers, count) > _NEAR).sum())
        if near:
            notes.append(
                f"In {near} of {len(routers)} layers two routers are nearly the same (cosine above "
                f"{_NEAR}), so one of these experts may get few tokens; give prompts that differ "
                "more, or negative prompts."
            )
    return notes


def _card(mixture: Mixture, shape: str, parents: Mapping[str, Parent], seed: int) -> str:
    """Return the model card, without a path of this machine."""
    used = list(parents.values())
    data = card_data("", "text-generation", used, mergekit=True)
    data.tags = [*(data.tags or ()), "moe"]
    count = len(mixture.experts)
    rows = [
        _row(f"shared, {number}" if number == count else str(number), item, parents)
        for number, item in enumerate(mixture.every)
    ]
    prompts = [_prompts(number, item) for number, item in enumerate(mixture.every)]
    random = "" if mixture.needs_prompts else f", seed {seed}"
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# A mixture of {count} experts",
        f"Made by evomerge {version('evomerge')} from dense models, without training: a {shape}. "
        f"Each token goes to {mixture.per_token} of {count} experts in each layer. Attention, "
        f"norms, embeddings, head and tokenizer are those of {_name(mixture.base, parents)}; each "
        "expert is the MLPs of a model:",
        "| expert | model | `residual_scale` | `noise_scale` |\n|---|---|---|---|\n"
        + "\n".join(rows),
        f"Routers: {code(mixture.gates)}{random}{', from these prompts:' if any(prompts) else '.'}",
        *filter(None, prompts),
        licence_of(used),
        "## How to repeat",
        block([f"evomerge moe {CONFIG} --out MODEL_DIR{f' --seed {seed}' if seed else ''}"]),
        "(`evomerge push` does not upload this file if it names folders of the machine where the "
        "model was made.)",
        fingerprints_of(used),
    ]
    return "\n\n".join(lines) + "\n"


def _name(reference: str, parents: Mapping[str, Parent]) -> str:
    return code(parents[reference].name)


def _row(number: str, expert: Expert, parents: Mapping[str, Parent]) -> str:
    name = plain(parents[expert.model].name)
    return f"| {number} | {name} | {expert.residual_scale:g} | {expert.noise_scale:g} |"


def _prompts(number: int, expert: Expert) -> str:
    def listed(prompts: Sequence[str]) -> str:
        return ", ".join(map(code, prompts))

    against = f"; against: {listed(expert.negative)}" if expert.negative else ""
    return f"- {number}: {listed(expert.positive)}{against}" if expert.positive else ""
