"""Writing what a merge changes in its base as a LoRA adapter (`extract`, `--as adapter`)."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError, InputError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import hub_id, resolve, split_adapter, split_kind
from evomerge.parsing.values import shown
from evomerge.recipe import Recipe
from evomerge.run.atomic import TemporaryFolder, atomic_folder, check_new_folder
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.searching.ranking import best_of
from evomerge.setup.merges import MergeOpener, pinned
from evomerge.setup.parents import absolute_recipe
from evomerge.setup.parents_as_themselves import recipe_to_write
from evomerge.setup.runs import open_model, reopen
from evomerge.setup.weight_digests import check_weights
from evomerge.trust.consent import Permissions

if TYPE_CHECKING:
    from evomerge.merging.adapter_file import AdapterFile, Part

_LOADERS = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
}
"""PEFT's name of a task -> its class that loads an adapter with the base. The others have one."""

_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` of vLLM 0.32 may be."""

_EMBEDDINGS = (
    "Of many models, such as Qwen2 and Gemma 3, vLLM loads no change of embeddings and head; "
    "`evomerge extract --without-embeddings` leaves it out."
)

_BLOCK = re.compile(r"(?P<stack>.*?)\.(?P<layer>\d+)\.")


@dataclass(frozen=True)
class WrittenAdapter:
    """An adapter that was written.

    Attributes:
        rank: of its matrices.
        error: norm of what was cut, as a share of the norm of the change (0 to 1).
        by_layer: the same for each layer that is changed, and for what is outside of layers.
        notes: what is not in the adapter, and what was ignored in the file of the merge, in
            sentences.
    """

    rank: int
    error: float
    by_layer: Mapping[str, float]
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What was cut, in a sentence."""
        if self.error < 1e-3:
            return "it has the whole change of the base, up to rounding"
        return f"it lacks {100 * self.error:.1f} % of the change of the base (norms)"


def extract(
    base: str,
    model: str,
    rank: int,
    out: Path,
    *,
    matrices_only: bool = False,
    without_embeddings: bool = False,
    allow_pickle: bool = False,
) -> WrittenAdapter:
    """Write what a fine-tune has changed in its base as an adapter; see `evomerge.extract`."""
    from evomerge.merging.backend import unchanged

    check_rank(rank)
    check_new_folder(out)
    with TemporaryFolder() as folder:
        opener = MergeOpener(open_model, models=folder)
        found = {
            name: opener(name, Path.cwd(), allow_pickle=allow_pickle)
            for name in dict.fromkeys((base, model))
        }
        recipe = unchanged(found[model], "float32")
        asked: dict[Part, bool] = {"vectors": matrices_only, "embeddings": without_embeddings}
        without = [part for part, is_left_out in asked.items() if is_left_out]
        return write_adapter(recipe, base, found, rank, out, Path.cwd(), without=without)


def export_adapter(
    run: RunFolder, out: Path, which: str, rank: int | None, *, allow_pickle: bool = False
) -> WrittenAdapter:
    """Write a candidate of a run as an adapter; see `Run.export_adapter`."""
    check_rank(rank)
    check_new_folder(out)
    checked, history = reopen(run, Permissions(allow_pickle)), History(run.events())
    candidate = history.chosen(which, best_of(history, checked.ranking))
    recipe = recipe_to_write(checked, candidate, history.candidates)
    checkpoints = {name: checked.checkpoints[name] for name in recipe.parents}
    check_weights(run, checkpoints)
    written = pinned(recipe, checked.checkpoints, checked.merges)
    texts = {"evomerge_recipe.yaml": absolute_recipe(written, run.path).to_yaml()}
    about = [
        f"It is candidate {candidate.number} of a search, which scored the merged weights in "
        f"{recipe.dtype}. `evomerge evaluate BASE+ADAPTER_DIR` scores this adapter."
    ]
    return adapter_of(
        recipe, checked.checkpoints, rank, out, run.path, texts, about, base=checked.config.base
    )


def adapter_of(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    rank: int | None,
    out: Path,
    folder: Path,
    texts: Mapping[str, str],
    about: Sequence[str] = (),
    base: str | None = None,
) -> WrittenAdapter:
    """Write the adapter of a recipe over a base, or its own; without a rank nothing is cut.

    For the arguments and errors see `write_adapter`.
    """
    base, whole = base or base_of(recipe), frozenset[str]()
    if rank is None:
        rank, whole = uncut(recipe, checkpoints, base)
    every = {base: open_model(base, folder), **checkpoints}
    return write_adapter(recipe, base, every, rank, out, folder, texts, about, whole=whole)


def check_rank(rank: int | None) -> None:
    """Raise an `InputError` if a rank is no positive whole number."""
    if rank is not None and (type(rank) is not int or rank < 1):
        raise InputError(f"--rank is {shown(rank)}; it must be a whole number, 1 or more.")


def base_of(recipe: Recipe) -> str:
    """Return the model that an adapter of a recipe is for.

    It is what task vectors are measured from; else the model before the `+` that parents share.

    Raises:
        InputError: there is no such model.
    """
    bases = {layer.base.parent for layer in recipe.every_layer() if layer.base is not None}
    if not bases:
        bases = {split_adapter(name, Path.cwd())[0] for name in recipe.parents}
    if len(bases) != 1:
        one, other, *_ = sorted(bases)
        raise InputError(
            f"An adapter needs a base, which this merge does not have, since {one!r} and {other!r} "
            "are two models; search with `base`, or write a checkpoint and give it to `evomerge "
            "extract`."
        )
    return bases.pop()


def uncut(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], base: str
) -> tuple[int, frozenset[str]]:
    """Return the rank, and the names of modules to save whole, with which nothing need be cut.

    These are the sum of the ranks of the parents' adapters, and what these have saved whole.

    Raises:
        InputError: a parent has no adapter.
    """
    from evomerge.merging.tensors.adapters import Adapter

    total, whole = 0, set[str]()
    for name in recipe.parents:
        if checkpoints[name].adapter is not None:
            adapter = Adapter(checkpoints[name])
            total += max(adapter.ranks.values(), default=0)
            whole |= set(adapter.saved)
        elif name != base:
            raise InputError(
                f"Parent {name!r} has no adapter, so the rank of the merge is not known; give "
                "--rank, for example 16."
            )
    return max(total, 1), frozenset(whole)


def write_adapter(
    recipe: Recipe,
    base: str,
    checkpoints: Mapping[str, Checkpoint],
    rank: int,
    out: Path,
    folder: Path,
    texts: Mapping[str, str] | None = None,
    about: Sequence[str] = (),
    *,
    whole: Collection[str] = (),
    without: Collection[Part] = (),
) -> WrittenAdapter:
    """Write the adapter of a recipe, with a card.

    Args:
        base, rank, whole, without: see `extracted`.
        folder: where relative references start from.
        texts: more files, name -> text.
        about: paragraphs of the card.

    Raises:
        InputError: `out` exists, or as for `extracted`.
    """
    from evomerge.merging.extraction import extracted, other_settings

    if checkpoints[base].adapter is not None or split_kind(base)[0]:
        raise CheckpointError(
            f"{base!r} is no model of its own, so PEFT cannot load it as the base of an adapter; "
            "name the folder or the Hub id of a model."
        )
    made = extracted(recipe, base, checkpoints, rank, whole=whole, without=without)
    others = other_settings(checkpoints[recipe.host], checkpoints[base])
    notes = (
        f"The adapter runs with the config.json of {base!r}, in which {', '.join(others)} differ "
        "from those of the merge; give a base with the same, or write a checkpoint.",
    )
    written = WrittenAdapter(made.rank, made.error, _by_layer(made), notes if others else ())
    config = made.config() | _named_base(base, folder)
    with atomic_folder(out) as new:
        made.save(new)
        for name, text in {
            "adapter_config.json": json.dumps(config, indent=2) + "\n",
            "README.md": _card(
                config, written, hub_id(base), about, has_embeddings=made.has_embeddings
            ),
            **(texts or {}),
        }.items():
            (new / name).write_text(text, encoding="utf-8")
    return written


def _named_base(base: str, folder: Path) -> dict[str, Any]:
    """Return how PEFT finds the base: its Hub id and revision, or its folder."""
    name, _, revision = base.partition("@")
    if hub_id(base) is not None and resolve(base, folder) != (folder / base):
        return {"base_model_name_or_path": name, "revision": revision or None}
    return {"base_model_name_or_path": str(resolve(base, folder)), "revision": None}


def _by_layer(adapter: AdapterFile) -> dict[str, float]:
    from evomerge.merging.adapter_file import share

    groups: dict[str, list[tuple[float, float]]] = {}
    for name, errors in adapter.errors.items():
        found = _BLOCK.search(name)
        place = f"{found['stack']}.{found['layer']}" if found else name
        groups.setdefault(place, []).append(errors)
    return {place: share(errors) for place, errors in groups.items()}


def _card(
    config: Mapping[str, Any],
    written: WrittenAdapter,
    base: str | None,
    about: Sequence[str],
    *,
    has_embeddings: bool,
) -> str:
    """Return the card, without a path of this machine."""
    import yaml

    data = {
        **({"base_model": base, "base_model_relation": "adapter"} if base else {}),
        "library_name": "peft",
        "tags": ["lora", "merge", "evomerge"],
    }
    loader = _LOADERS.get(config["task_type"], "AutoPeftModel")
    rows = [f"| `{place}` | {100 * error:.2f} |" for place, error in written.by_layer.items()]
    targets, saved = (
        ", ".join(f"`{n}`" for n in sorted({n.rpartition(".")[2] for n in config[key] or ()}))
        for key in ("target_modules", "modules_to_save")
    )
    lines = [
        f"---\n{yaml.safe_dump(data, sort_keys=False)}---",
        "# A LoRA adapter",
        f"Made by evomerge {version('evomerge')}: rank {written.rank}, of {targets}"
        f"{f'; {saved} are saved whole' if saved else ''}. {written.text.capitalize()}.",
        *about,
        f"```python\nfrom peft import {loader}\n\n"
        f'model = {loader}.from_pretrained("ADAPTER_DIR")\n```',
        *_in_vllm(config, base, has_embeddings=has_embeddings),
        "## What it lacks",
        "| part of the model | norm of what is lost, in % of the norm of the change |\n|---|---|\n"
        + "\n".join(rows),
    ]
    return "\n\n".join(lines) + "\n"


def _in_vllm(
    config: Mapping[str, Any], base: str | None, *, has_embeddings: bool = False
) -> list[str]:
    """Return how vLLM serves the adapter of a language model, or why it does not load it."""
    limit = next((rank for rank in _VLLM_RANKS if rank >= config["r"]), None)
    if config["task_type"] != "CAUSAL_LM":
        return []
    if config["modules_to_save"] or config["bias"] != "none":
        return [
            "vLLM does not load it, since modules or biases are saved whole. With `--rank`, a "
            "merge has products of embeddings and head; norms and biases are left out by `evomerge "
            "extract --matrices-only`, also of a merge that is a checkpoint."
        ]
    if limit is None:
        return [f"vLLM does not load it, since its rank is above {_VLLM_RANKS[-1]}."]
    return [
        f"```\nvllm serve {base or 'BASE_DIR'} --enable-lora --max-lora-rank {limit} "
        "--lora-modules merged=ADAPTER_DIR\n```",
        *([_EMBEDDINGS] if has_embeddings else ()),
    ]
