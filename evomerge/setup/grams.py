"""Writing the Gram matrices of a model's inputs on the search documents (`evomerge grams`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xxhash import xxh3_128_digest

from evomerge.config.frozen import frozen_splits
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, RunFolderError, did_you_mean, not_written
from evomerge.models.causal import check_causal
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.grams import metadata
from evomerge.models.stacks import is_other_modality
from evomerge.run.atomic import atomic_file
from evomerge.run.writable import check_new_folder
from evomerge.setup.merges import temporarily_built
from evomerge.setup.parents import anchored
from evomerge.setup.runs import open_model
from evomerge.setup.tasks import check_sources, find_splits, load_tasks
from evomerge.setup.worker import place
from evomerge.trust.consent import Consent

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.merging.architecture.layout import Layout


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        documents: task -> number of its documents.
        tokens: number of tokens that the model read.
        weights: number of weights with a Gram matrix.
        matrices: number of different Gram matrices.
        without: matrices of the blocks that no linear layer reads, so that they have none.
    """

    documents: Mapping[str, int]
    tokens: int
    weights: int
    matrices: int
    without: tuple[str, ...]


def write_grams(
    config: SearchConfig,
    relative_to: Path,
    model: str,
    out: Path,
    tasks: Sequence[str] = (),
    documents: int | None = None,
    *,
    allow_code: bool = False,
    consent: Consent | None = None,
) -> Written:
    """Run a model over search documents, and write the Gram matrices of its layers' inputs.

    It reads the prompt and the right answer of each document, as the tasks feed them. The parents
    of the search file are not opened, since one of them may be a merge by these matrices.

    Args:
        config: a parsed search file, or the frozen one of a run.
        relative_to: folder of relative paths in the search file.
        model: reference of the model, as of a parent in a search file.
        out: the file to write; it must not exist.
        tasks: the tasks whose documents are read; none: all of the search file.
        documents: largest number of documents of each task; None: all search documents.
        allow_code: accept tasks that run code which models write.
        consent: decides whether the code of tasks may run; None: if it was allowed before.

    Raises:
        InputError: there is no such model or task, or the file exists.
    """
    check_new_folder(out, "file")
    config = anchored(config, relative_to)
    with temporarily_built(model, Path.cwd(), open_model) as checkpoint:
        check_causal(checkpoint)
        evaluator = load_tasks(config, allow_code=allow_code, consent=consent)
        check_sources(config, evaluator)
        chosen = _documents(config, evaluator, tasks, documents)
        layout = _load(config, checkpoint)
        texts = list(_texts(evaluator, checkpoint, layout.module, chosen))
        content, matrices = _grams(checkpoint, layout, texts)
        counts = {task: len(ids) for task, ids in chosen.items()}
        content |= {
            "model": checkpoint.reference.rpartition("/")[2],  # equal bytes from any folder
            "fingerprint": checkpoint.fingerprint,
            "tasks": list(counts),
            "documents": list(counts.values()),
            "tokens": sum(map(len, texts)),
        }
        _write(out, matrices, metadata(content))
        weights: Mapping[str, str] = content["weights"]
        without = _without(checkpoint, weights)
        return Written(counts, content["tokens"], len(weights), len(matrices), without)


def _documents(
    config: SearchConfig, evaluator: Evaluator, tasks: Sequence[str], most: int | None
) -> dict[str, tuple[int, ...]]:
    """Return the documents to read: task -> ids."""
    splits = frozen_splits(config) if config.frozen else find_splits(config, evaluator)
    found, own = splits["search"], evaluator.tasks_of("search")
    known = tuple(dict.fromkeys((*config.tasks, *found)))
    for name in tasks:
        if name not in known:
            raise ConfigError(
                f"--task is {name!r}, but the search file has {', '.join(known)}; name one of "
                f"these.{did_you_mean(name, known)}"
            )
    chosen = {}
    for name in dict.fromkeys(leaf for task in tasks or found for leaf in own.info.leaves(task)):
        if name in own.functions:
            continue
        ids = sorted(found[name])
        count = min(most or len(ids), len(ids))
        chosen[name] = tuple(ids[i * len(ids) // count] for i in range(count))
    if not chosen:
        raise ConfigError(
            f"There are no texts to read, since {', '.join(tasks or known)} are objective "
            "functions; name a search file with lm-eval tasks, or such tasks with --task."
        )
    return chosen


def _load(config: SearchConfig, checkpoint: Checkpoint) -> Layout:
    """Return a model with its weights, and where they are."""
    from evomerge.merging.backend import resident, unchanged

    recipe = unchanged(checkpoint, config.dtype)
    model = resident({checkpoint.reference: checkpoint}, recipe, place(config, checkpoint))
    prepared = model.prepare(recipe)
    model.write(prepared)
    return prepared.layout


def _texts(
    evaluator: Evaluator,
    checkpoint: Checkpoint,
    module: Any,
    documents: Mapping[str, Sequence[int]],
) -> Iterator[tuple[int, ...]]:
    """Yield the tokens of each text that is read."""
    from evomerge.evaluation.inference.reference import ReferenceLM
    from evomerge.merging.backend import tokenizer_of

    harness = evaluator.tasks_of("search").harness
    assert harness is not None
    reference = ReferenceLM(module, tokenizer_of(checkpoint), reasoning=evaluator.reasoning)
    for task, ids in documents.items():
        for prompt, target in harness.with_targets(task, ids, reference):
            yield from reference.inputs(prompt, target)


def _grams(
    checkpoint: Checkpoint, layout: Layout, texts: Sequence[tuple[int, ...]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the content of the metadata about weights, and the different Gram matrices by name."""
    from evomerge.evaluation.inference.grams import gram_matrices, input_axis, linear_layers

    layers = linear_layers(layout.module)
    owners = {f"{name}.weight": name for name in layers}
    places = checkpoint.places
    weights: dict[str, str] = {}  # weight -> name of its layer
    turned = []
    for weight, location in layout.locations.items():
        layer = owners.get(location.parameter)
        skipped = places.get(weight) in ("embeddings", "kept", "buffer")
        if layer is None or skipped or is_other_modality(weight):
            continue
        axis, matrix = input_axis(layers[layer]), len(checkpoint.tensors[weight].shape) == 2
        if matrix and location.size[axis] == layers[layer].weight.shape[axis]:  # type: ignore[index]
            weights[weight] = layer
            if location.axes[axis] == 0:
                turned.append(weight)
    used = {name: layers[name] for name in dict.fromkeys(weights.values())}
    found = gram_matrices(layout.module, texts, used)
    first: dict[bytes, str] = {}  # digest of a matrix -> the first layer that has it
    kept = {
        layer: first.setdefault(xxh3_128_digest(gram.numpy().data), layer)
        for layer, gram in found.items()
    }
    names = {weight: kept[layer] for weight, layer in weights.items()}
    matrices = {layer: found[layer] for layer in dict.fromkeys(kept.values())}
    return {"weights": names, "transposed": turned}, matrices


def _without(checkpoint: Checkpoint, weights: Mapping[str, str]) -> tuple[str, ...]:
    """Return the tensors of the blocks with two dimensions or more and without a Gram matrix."""
    names = (
        stack.name(layer, rest)
        for stack in checkpoint.language.values()
        for layer, block in enumerate(stack.blocks)
        for rest in block
    )
    return tuple(
        name for name in names if name not in weights and len(checkpoint.tensors[name].shape) > 1
    )


def _write(out: Path, matrices: Mapping[str, Any], meta: Mapping[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with atomic_file(out) as partial:
            try:
                save_file(dict(matrices), partial, dict(meta))
            except SafetensorError as error:  # it has the system's number in its text only
                found = re.search(r"os error (\d+)", str(error))
                if found is None:
                    raise
                raise OSError(int(found[1]), os.strerror(int(found[1]))) from error
    except OSError as error:
        raise not_written(str(out), error, "name another file", RunFolderError) from error
