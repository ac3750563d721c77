"""Writing a model with the vocabulary of another one (`evomerge transplant`)."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evomerge.errors import CheckpointError, InputError, did_you_mean
from evomerge.export.card import CARD, block, code, fingerprints_of, licence_of, plain
from evomerge.export.metadata import card_data
from evomerge.export.parents import Parent, describe_parents
from evomerge.models.causal import check_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.code_keys import code_notes, without_code
from evomerge.models.files import TOKENIZER_FILES, check_files
from evomerge.models.kinds import kind_of
from evomerge.models.references import folder_with, is_folder
from evomerge.models.safetensors import read_json
from evomerge.run.atomic import TemporaryFolder, check_new_folder
from evomerge.setup.merges import MergeOpener
from evomerge.setup.runs import open_model

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.transplant import Combination, Transplant

WAYS = ("omp", "subtokens")


@dataclass(frozen=True)
class Transplanted:
    """A model that was written with the vocabulary of another one.

    Attributes:
        rows: number of rows of its embeddings, with padding.
        kept: tokens that have the model's own rows.
        approximated: tokens whose rows are sums of its rows.
        notes: whose chat template it has, and what was left out, in sentences.
    """

    rows: int
    kept: int
    approximated: int
    notes: tuple[str, ...] = ()


def transplant(
    model: str,
    tokenizer: str,
    out: Path,
    by: str,
    atoms: int,
    shard_size: str,
    *,
    allow_pickle: bool = False,
) -> Transplanted:
    """Write a model with the vocabulary of another one; see `evomerge.transplant`."""
    from evomerge.merging.backend import bytes_of, load_tokenizer, unchanged
    from evomerge.merging.tensors.adapters import adapter_patches
    from evomerge.merging.tensors.plan import STORED
    from evomerge.merging.tokenizers.rows import MatchedRows
    from evomerge.merging.tokenizers.transplant import Transplant, files_of
    from evomerge.merging.writer import write_model

    if by not in WAYS:
        raise InputError(f"--by is {by!r}; allowed are {', '.join(WAYS)}.{did_you_mean(by, WAYS)}")
    shard_bytes = bytes_of(shard_size, "--shard-size")
    check_new_folder(out)
    with TemporaryFolder() as folder:
        opener = MergeOpener(open_model, models=folder)
        host = opener(model, Path.cwd(), allow_pickle=allow_pickle)
        _check_causal(host)
        if by == "omp":
            _check_has_weights(tokenizer)
            donor = opener(tokenizer, Path.cwd(), allow_pickle=allow_pickle)
        else:
            donor = _tokenizer_alone(tokenizer)
        check_tokenizer(donor)
        load_tokenizer(donor.folder, donor.reference)
        plan = Transplant.of(host, donor)
        files = files_of(plan, host, donor)
        names = {host.reference: host, donor.reference: donor}
        parents = describe_parents(names, names, opener.named)
        sums = _by_atoms(plan, host, donor, atoms) if by == "omp" else _by_pieces(plan, host)
        filled = next(iter(sums.values())).filled
        done = Transplanted(
            plan.size,
            len(plan.kept),
            int(filled.sum()) - len(plan.kept),
            (
                *code_notes(host.reference, [host.folder / "config.json"]),
                *code_notes(donor.reference, donor.companions),
                *files.notes,
            ),
        )
        card = _card(plan, done, parents, by, atoms)
        index = np.where(filled, np.arange(plan.size), -1).tolist()
        patches = adapter_patches({host.reference: host})
        adapted = patches.get(host.reference)

        def patch(name: str, tensor: Any) -> Any:
            tensor = adapted(name, tensor) if adapted else tensor
            return sums[name].apply(tensor) if name in sums else tensor

        stored = host.tensors[str(host.embedding)].dtype
        dtype = next(name for name, header in STORED.items() if header == stored)
        write_model(
            unchanged(host, dtype),
            {host.reference: host},
            out,
            shard_size=shard_bytes,
            extra_files={**files.texts, CARD: card},
            dropped=files.dropped,
            patches={host.reference: patch},
            rows=MatchedRows(
                plan.size, plan.size, {host.reference: index}, {}, None, files.special_ids
            ),
        )
    return done


def _check_causal(model: Checkpoint) -> None:
    kind = kind_of(model)
    if not kind.startswith("causal language model") or model.embedding is None:
        raise CheckpointError(
            f"{model.reference!r} is a model of the kind {kind}, and only a causal language model "
            "can be given another vocabulary; name one."
        )


def _check_has_weights(reference: str) -> None:
    """Check that a folder with a tokenizer is that of a whole model."""
    folder = Path(reference)
    if is_folder(folder) and (folder / "tokenizer.json").is_file():
        kinds = ("*.safetensors", "*.bin", "*.gguf")
        if not any(file for kind in kinds for file in folder.glob(kind)):
            raise CheckpointError(
                f"{reference!r} has a tokenizer and no weights, but omp reads the embeddings of "
                "its model; give the whole model, or set `--by subtokens`."
            )


def _tokenizer_alone(reference: str) -> Checkpoint:
    """Open the tokenizer of a model, which may have no weights; from the Hub they are not read."""
    folder = folder_with([*TOKENIZER_FILES, "config.json"], reference, Path.cwd())
    check_files(folder)
    config = folder / "config.json"
    given = without_code(read_json(config)) if config.is_file() else {}
    return Checkpoint(reference, folder, given, {})


def _card(
    plan: Transplant, done: Transplanted, parents: Mapping[str, Parent], by: str, atoms: int
) -> str:
    """Return the model card, without a path of this machine; `parents`: the model and its donor."""
    model, donor = models = tuple(parents.values())
    own, other = code(model.name), code(donor.name)
    data = card_data("", "text-generation", models, mergekit=False)
    data.base_model, data.tags = list(model.hub_ids) or None, ["evomerge", "transplant"]
    data["base_model_relation"] = "finetune" if data.base_model else None  # no word is nearer
    way = (
        f"sums of {atoms} rows of {plain(model.name)}: those sums that are near to the rows in "
        f"{plain(donor.name)} (orthogonal matching pursuit, arXiv 2506.06607)"
        if by == "omp"
        else f"averages of the rows of the pieces that {plain(model.name)} cuts the token into"
    )
    rows = [
        (done.kept, f"those of the same tokens in {plain(model.name)}"),
        (done.approximated, way),
        (done.rows - done.kept - done.approximated, "the average of all rows"),
    ]
    known = len(plan.model.tokens.ids)
    gone = known - len(set(plan.kept.values()))
    command = shlex.join(["evomerge", "transplant", model.name, "--tokenizer", donor.name])
    options = f"--atoms {atoms}" if by == "omp" else f"--by {by}"
    lines = [
        f"---\n{data.to_yaml()}\n---",
        f"# {plain(model.name)} with the vocabulary of {plain(donor.name)}",
        f"Made by evomerge {version('evomerge')} from {own}, without training. It has the tokens "
        f"of {other}, so it can be merged with models that have them, too. Embeddings and head "
        f"have {done.rows:,} rows; all other weights are those of {own}.",
        "| tokens | rows |\n|---|---|\n"
        + "\n".join(f"| {count:,} | {what} |" for count, what in rows if count),
        "The average of all rows stands for padding, and for texts that no row was found for. "
        f"Tokens of {own} that are gone: {gone:,} of {known:,}.",
        *(_published(note, parents) for note in done.notes),
        licence_of(models),
        "## How to repeat",
        block([f"{command} --out MODEL_DIR {options}"]),
        fingerprints_of(models),
    ]
    return "\n\n".join(lines) + "\n"


def _published(note: str, parents: Mapping[str, Parent]) -> str:
    for reference, parent in parents.items():
        note = note.replace(repr(reference), repr(parent.name))
        note = note.replace(f" of {reference} has ", f" of {parent.name} has ")
    return plain(note)


def _by_pieces(plan: Transplant, model: Checkpoint) -> Mapping[str, Combination]:
    return dict.fromkeys(model.token_tensors, plan.by_pieces())


def _by_atoms(
    plan: Transplant, model: Checkpoint, donor: Checkpoint, atoms: int
) -> Mapping[str, Combination]:
    """Return the sums for embeddings and head, each found in the donor's own matrix."""
    from evomerge.merging.kernels.torch_views import as_tensor
    from evomerge.merging.tensors.adapters import adapter_patches
    from evomerge.merging.tensors.plan import SourceTensor
    from evomerge.merging.tensors.reader import TensorReader

    plan.check_atoms(donor, atoms)
    every = {donor.reference: donor}
    reader = TensorReader(every, adapter_patches(every))

    def found(name: str) -> Combination:
        matrix = as_tensor(reader.read(SourceTensor(donor.reference, name)))
        return plan.by_atoms(matrix.float().numpy(), atoms)

    embeddings = found(str(donor.embedding))
    same = model.tied or donor.tied or donor.head is None
    head = embeddings if same else found(str(donor.head))
    return {name: embeddings if name == model.embedding else head for name in model.token_tensors}
