"""Files with the Gram matrices of a model's inputs, which `evomerge grams` writes.

Such a file is a safetensors file. Its metadata has one entry, `evomerge.grams`, which is JSON: the
fingerprint of the model, the tasks, documents and tokens that it read, and for each weight of the
model the name of its Gram matrix. Weights with the same inputs (those of query, key and value)
share one matrix. Matrices are float32, divided by the number of tokens. This needs no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import CheckpointError, one_line
from evomerge.models.safetensors import TensorInfo, read_header
from evomerge.parsing.texts import json_value
from evomerge.parsing.values import Values, shown

METADATA = "evomerge.grams"
"""The only key of the metadata. With several, safetensors would write them in any order."""

_VALUES = Values(CheckpointError)
_KEYS = ("model", "fingerprint", "tasks", "documents", "tokens", "weights", "transposed")
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Gram:
    """The Gram matrix of one weight.

    Attributes:
        name: its name in the file.
        info: where it is.
        transposed: whether the weight is stored as (inputs, outputs), as in GPT-2.
    """

    name: str
    info: TensorInfo
    transposed: bool


@dataclass(frozen=True)
class GramFile:
    """The Gram matrices of one model.

    Attributes:
        path: the file.
        sha256: digest of its bytes, as 64 hexadecimal digits.
        weights: name of a weight of the model -> its Gram matrix.
    """

    path: Path
    sha256: str
    weights: Mapping[str, Gram]

    @classmethod
    def open(
        cls,
        path: Path,
        reference: str,
        fingerprint: str,
        tensors: Mapping[str, TensorInfo],
        sha256: str = "",
    ) -> GramFile:
        """Open a file and check that it belongs to a model. All of its bytes are read once.

        Args:
            path: the file.
            reference: reference of the model, for errors.
            fingerprint: fingerprint of the model.
            tensors: the tensors of the model, with their names on disk.
            sha256: digest that the file must have; "" for any.

        Raises:
            CheckpointError: the file is missing or damaged, has another digest, belongs to another
                model, misses a matrix, or has one of another shape or with a NaN.
        """
        if not path.is_file():
            known = f" (SHA-256 {sha256})" if sha256 else ""
            fix = "put it back" if sha256 else "write one with `evomerge grams`, or name another"
            raise CheckpointError(
                f"The Gram matrices of {reference!r} are missing, since there is no file "
                f"{str(path)!r}{known}; {fix}."
            )
        matrices = read_header(path)
        content = _metadata(path)
        if content["fingerprint"] != fingerprint:
            raise CheckpointError(
                f"The Gram matrices of {reference!r} are to come from {path}, but it was written "
                f"for a model with another fingerprint ({shown(content['model'])}); write a file "
                "for this model with `evomerge grams`."
            )
        found = _digest(path)
        if sha256 and found != sha256:
            raise CheckpointError(
                f"The Gram matrices of {reference!r} are to have the SHA-256 {sha256}, but {path} "
                f"has {found}; put the old file back, or remove `sha256` from the recipe to merge "
                "with the new one."
            )
        turned = set(content["transposed"])
        weights = {}
        for weight, name in content["weights"].items():
            if weight not in tensors or name not in matrices:
                lacking = f"matrix {shown(name)}" if weight in tensors else f"weight {weight!r}"
                where = str(path) if weight in tensors else repr(reference)
                raise CheckpointError(
                    f"The Gram matrices of {reference!r} are incomplete: {where} has no {lacking}; "
                    "write the file again with `evomerge grams`."
                )
            gram = weights[weight] = Gram(name, matrices[name], weight in turned)
            _check_shape(reference, path, weight, gram, tensors[weight].shape)
        _check_finite(reference, path, {gram.name: gram.info for gram in weights.values()})
        return cls(path, found, weights)


def _metadata(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA)
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no valid safetensors file ({one_line(error)}); write the file again with "
            "`evomerge grams`."
        ) from error
    if text is None:
        raise CheckpointError(
            f"{path} was not written by `evomerge grams`: its metadata has no {METADATA!r}; name a "
            "file with Gram matrices."
        )
    where = f"The metadata of {path}"
    content = _VALUES.mapping(json_value(text, where, CheckpointError), where, _KEYS)
    for key in _KEYS:
        if key not in content:
            raise CheckpointError(
                f"{where} has no {key!r}; write the file again with `evomerge grams`."
            )
    for name in _VALUES.mapping(content["weights"], "weights").values():
        _VALUES.text(name, "weights", "the name of a matrix")
    for name in _VALUES.items(content["transposed"], "transposed"):
        _VALUES.text(name, "transposed", "the name of a weight")
    return content


def metadata(content: Mapping[str, Any]) -> dict[str, str]:
    """Return the metadata of a new file.

    Args:
        content: `model` (its name), `fingerprint`, `tasks`, `documents`, `tokens`, `weights`
            (weight -> name of its matrix) and `transposed` (weights of shape (inputs, outputs)).
    """
    return {METADATA: json.dumps({key: content[key] for key in _KEYS}, separators=(",", ":"))}


def _digest(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            total.update(chunk)
    return total.hexdigest()


def _check_shape(
    reference: str, path: Path, weight: str, gram: Gram, shape: tuple[int, ...]
) -> None:
    inputs = shape[0 if gram.transposed else -1] if len(shape) == 2 else 0
    if gram.info.shape != (inputs, inputs) or gram.info.dtype != "F32":
        raise CheckpointError(
            f"The Gram matrices of {reference!r} do not fit: {path} has a matrix of "
            f"{gram.info.dtype} and shape {list(gram.info.shape)} for {weight!r} of shape "
            f"{list(shape)}, which needs F32 and {[inputs, inputs]}; write the file again with "
            "`evomerge grams`."
        )


def _check_finite(reference: str, path: Path, matrices: Mapping[str, TensorInfo]) -> None:
    for name, info in matrices.items():
        count = info.nbytes // 4
        values = np.memmap(path, np.uint8, "r")[info.begin : info.begin + 4 * count]
        for begin in range(0, len(values), _CHUNK):
            part = values[begin : begin + _CHUNK]
            if not np.isfinite(np.frombuffer(part.tobytes(), "<f4")).all():
                raise CheckpointError(
                    f"The Gram matrices of {reference!r} hold NaN or infinite numbers: {path}, "
                    f"matrix {name!r}; write the file again with `evomerge grams`."
                )
