"""A parent on disk: its config, tensors, block stacks and tokenizer files. No weights are loaded.

There is no list of architectures: names of tensors show the block stacks (`model.layers.0.`,
`model.layers.1.`, ...), and whether others belong to the embeddings, the head or another modality.
"""

import hashlib
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, TypeVar

from evomerge.errors import CheckpointError
from evomerge.models.files import (
    GGUF_ADVICE,
    check_files,
    companion_files,
    module_tensors,
    read_tensors,
    without_code,
)
from evomerge.models.fp8 import VERSION, as_stored, without_quantisation
from evomerge.models.modules import ModuleStack, read_stack
from evomerge.models.safetensors import TensorInfo, content_digest, read_json
from evomerge.models.stacks import (
    Modality,
    Stack,
    find_stacks,
    is_buffer,
    is_other_modality,
    modality_of,
    prediction_tensors,
)
from evomerge.parsing.texts import read_text
from evomerge.parsing.values import Values

Place: TypeAlias = Literal["embeddings", "head", "kept", "buffer"]

SECTIONS = ("text_config", "llm_config", "language_config", "decoder")
"""Keys under which a config may have a section for its language model."""

_COUNTS = {
    **dict.fromkeys(("vocab_size", "num_hidden_layers"), 0),
    **dict.fromkeys(("num_hidden_groups", "max_position_embeddings", "n_positions", "n_ctx"), 1),
}
"""Key of a config that is read here -> its smallest value; transformers checks other keys."""

_VALUES = Values(CheckpointError)

_Config = TypeVar("_Config", bound=Mapping[str, Any])

_INPUT = re.compile(r"embed|(^|\.)(wte|wpe|shared)\.|(^|\.)encoder\.conv\d\.")
_NO_TOKENS = re.compile(r"position|token_type|(^|\.)wpe\.")
_PLAIN = re.compile(r"(embed|wte\.)")  # tensors that have no name of the transformer before theirs
_HEADED = re.compile(r"For(MaskedLM|CausalLM|PreTraining)$")
_HEAD = re.compile(
    r"(^|\.)(lm_head|embed_out|output_projection|vocab_projector|unembed\w*|cls|score|head)(\.|$)"
)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A model on disk. Its config and the headers of its weight files are read, not its weights.

    Attributes:
        adapter: folder of a LoRA adapter that is added to the weights.
        original: the checkpoint with the names on disk, if `tensors` has other names.
        predictions: names on disk of layers for multi-token prediction, which `tensors` has not.
        modules: of a sentence encoder, the transformer and what follows it. Their weights are in
            `tensors`, with the module's folder before the names.
        lacks: names of tensors that a merge takes from the host if this is a source: a
            classification head that this parent does not have, or has for other labels.
        lost: names of tensors that this source has, and merges have no place for.
    """

    reference: str
    folder: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo] = field(repr=False)
    adapter: Path | None = None
    original: Self | None = None
    predictions: frozenset[str] = frozenset()
    modules: ModuleStack | None = None
    lacks: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()

    @classmethod
    def open(cls, folder: Path, reference: str, *, adapter: Path | None = None) -> Self:
        """Read the config and the headers of the weight files of a model folder.

        CheckpointError: it is not a model folder, a file is damaged or a link out of the folder, or
        the weights are quantised in a way that is not read.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise CheckpointError(f"Parent {reference!r}: there is no folder {str(folder)!r}.")
        if not reference.startswith("zoo:"):  # some installers link the files of a package
            check_files(folder)
        modules = read_stack(folder, reference)
        if modules is not None:
            check_files(folder, modules.folders)
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"Parent {reference!r}{_why_no_model(folder, reference)}")
        config = read_json(folder / "config.json")
        _check_types(config, f"{folder / 'config.json'}: ")
        tensors, config = read_tensors(folder, reference, config), without_quantisation(config)
        predictions = prediction_tensors(tensors)
        kept = {name: info for name, info in tensors.items() if name not in predictions}
        if modules is not None:
            config = _of_transformer(config, kept)
            kept |= module_tensors(folder, reference, modules)
        more: dict[str, Any] = {"predictions": predictions, "modules": modules}
        return cls(reference, folder, without_code(config), kept, adapter, **more)

    @property
    def parameters(self) -> int:
        """Number of elements of all tensors together."""
        return sum(prod(info.shape) for info in self.tensors.values())

    @cached_property
    def stacks(self) -> dict[str, Stack]:
        """All block stacks by prefix, the largest first."""
        return find_stacks(self.tensors)

    @property
    def language(self) -> dict[str, Stack]:
        """The block stacks of the language model by prefix; all of `stacks` in a text model."""
        return {name: item for name, item in self.stacks.items() if not is_other_modality(name)}

    @cached_property
    def decoder_stack(self) -> Stack:
        """The block stack of the language model; that of the decoder if there is an encoder too.

        CheckpointError: the names of the tensors have no block stack.
        """
        if not self.language:
            raise CheckpointError(
                f"Parent {self.reference!r}: the names of its tensors have no repeated blocks."
            )

        def rank(stack: Stack) -> tuple[bool, int]:
            size = sum(self.tensors[name].nbytes for name in stack.names)
            return "decoder" in stack.prefix, size

        return max(self.language.values(), key=rank)

    @cached_property
    def places(self) -> dict[str, Place]:
        """The part of the model that each tensor outside of the blocks belongs to, by name.

        `embeddings`: input embeddings. `head`: final norm, output head, and everything else.
        `kept`: another modality (vision tower, projector), copied from the host unless a recipe
        merges it. `buffer`: computed from the config, not trained (rotary frequencies, masks).
        """
        inside = {name for stack in self.stacks.values() for name in stack.names}

        def place(name: str, info: TensorInfo) -> Place:
            if is_buffer(name, info):
                return "buffer"
            if is_other_modality(name) and not self.module_of(name):
                return "kept"
            is_input = _INPUT.search(name) and not _HEAD.search(name) and not self.module_of(name)
            return "embeddings" if is_input else "head"

        return {
            name: place(name, info) for name, info in self.tensors.items() if name not in inside
        }

    @cached_property
    def modalities(self) -> dict[Modality, tuple[str, ...]]:
        """Each modality that the model has -> names of its trained tensors, in blocks too."""
        names_of: dict[Modality, list[str]] = {"vision": [], "projector": [], "audio": []}
        for name, info in self.tensors.items():
            modality = modality_of(name)
            if modality is not None and info.floating and not is_buffer(name, info):
                names_of[modality].append(name)
        return {modality: tuple(names) for modality, names in names_of.items() if names}

    @cached_property
    def embedding(self) -> str | None:
        """Name of the input embedding matrix (the largest matrix in `embeddings`), or None."""
        inputs = [name for name, place in self.places.items() if place == "embeddings"]
        of_tokens = [name for name in inputs if not _NO_TOKENS.search(name)]
        matrices = [name for name in of_tokens if len(self.tensors[name].shape) == 2]
        return max(matrices, key=lambda name: self.tensors[name].nbytes, default=None)

    @cached_property
    def head(self) -> str | None:
        """Name of the output head's matrix, or None if it is not stored (tied embeddings)."""
        vocabulary = self.tensors[self.embedding].shape if self.embedding else None
        heads = (name for name, place in self.places.items() if place == "head")
        named = filter(_HEAD.search, heads)
        return next((name for name in named if self.tensors[name].shape == vocabulary), None)

    @cached_property
    def token_tensors(self) -> tuple[str, ...]:
        """Names of the tensors with one row for each token: embeddings, head, bias of the head."""
        return tuple(
            name
            for name, place in self.places.items()
            if place in ("embeddings", "head")
            and self.tensors[name].shape[:1] == (self.vocabulary,)
            and (name in (self.embedding, self.head) or _HEAD.search(name))
        )

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The part of the config for the language model; the whole config in a text model."""
        return text_section(self.config)

    @property
    def tied(self) -> bool:
        """Whether the output head is the embedding matrix; a head on disk is then ignored."""
        declared = self.config.get(
            "tie_word_embeddings", self.text_config.get("tie_word_embeddings")
        )
        return self.head is None if declared is None else bool(declared)

    @cached_property
    def vocabulary(self) -> int:
        """Number of rows of the embedding matrix, with padding; 0 if there is no such matrix."""
        return self.tensors[self.embedding].shape[0] if self.embedding else 0

    def module_of(self, name: str) -> str:
        """Return the folder of the module that a tensor belongs to; empty: the transformer."""
        first = name.partition(".")[0]
        return first if self.modules is not None and first in self.modules.folders else ""

    @property
    def companions(self) -> tuple[Path, ...]:
        """The files that a merged model takes over from its host, beside config and weights."""
        return (*companion_files(self.folder), *(self.modules.files if self.modules else ()))

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """The files that have the tensors, and those of the adapter."""
        if self.original is not None:
            return self.original.weight_files
        files = {info.file for info in as_stored(self.tensors).values()}
        return (*sorted(files), *self._adapter_files)

    @property
    def is_in_fp8(self) -> bool:
        """Whether matrices are stored in FP8, and so have other bits in a merge."""
        tensors = (self.original or self).tensors
        return any(info.scale is not None for info in tensors.values())

    @property
    def as_stored(self) -> Self:
        """The parent with the names that its tensors have on disk."""
        return self if self.original is None else replace(self.original, reference=self.reference)

    @property
    def _adapter_files(self) -> list[Path]:
        return sorted(filter(Path.is_file, self.adapter.glob("adapter_*"))) if self.adapter else []

    def place_of(self, file: Path) -> str:
        """Return the path of a file in the model's folder; of an adapter's file its name."""
        return str(file.relative_to(self.folder) if file.is_relative_to(self.folder) else file.name)

    @property
    def generation(self) -> str | None:
        """Text of `generation_config.json`, or None if there is no such file."""
        file = self.folder / "generation_config.json"
        return read_text(file, CheckpointError) if file.is_file() else None

    @cached_property
    def chat_template(self) -> str | None:
        """The chat template of the tokenizer (the default one if it has several), or None."""
        file = self.folder / "chat_template.jinja"
        if file.is_file():
            return read_text(file, CheckpointError)
        for name in ("tokenizer_config.json", "chat_template.json"):
            if (self.folder / name).is_file():
                template = read_json(self.folder / name).get("chat_template")
                if isinstance(template, list):
                    named = (entry for entry in template if isinstance(entry, dict))
                    default = (entry for entry in named if entry.get("name") == "default")
                    template = next(default, {}).get("template")
                if isinstance(template, str):
                    return template
        return None

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(info.nbytes for info in self.tensors.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the parent's content, as 64 hexadecimal digits; see `content_digest`.

        It covers the config, the tokenizer, the generation config, the adapter and the tensors.
        """
        if self.original is not None:
            return self.original.fingerprint
        config = filter(Path.is_file, [self.folder / "config.json"])  # a tokenizer may have none
        files = [*config, *self.companions, *self._adapter_files]
        digest = content_digest(files, as_stored(self.tensors))
        if self.is_in_fp8:
            digest = hashlib.sha256(f"{digest} FP8 {VERSION}".encode()).hexdigest()
        return digest


def _why_no_model(folder: Path, reference: str) -> str:
    """Return what a folder without a config is, and what to do, as the end of a sentence."""
    export = f"evomerge export {shlex.quote(reference)} --out FOLDER"
    known = {
        "*.gguf": f": {GGUF_ADVICE}",
        "adapter_config.json": " is an adapter; name it behind the model that it was made for, as "
        f"`MODEL+{reference}`.",
        "journal.jsonl": f" is the folder of a run; export its winner with `{export}`.",
    }
    usual = f": {folder} has no config.json; give the folder that `save_pretrained` wrote."
    return next((why for name, why in known.items() if any(folder.glob(name))), usual)


def _of_transformer(config: dict[str, Any], tensors: Iterable[str]) -> dict[str, Any]:
    """Return the config of a sentence encoder, with the class that its weights belong to.

    Some name the class with the head of their training (`MPNetForMaskedLM`), but have the weights
    of the plain transformer, which sentence-transformers loads.
    """
    names, is_plain = config.get("architectures") or [], any(map(_PLAIN.match, tensors))
    return {**config, "architectures": [_HEADED.sub("Model", n) if is_plain else n for n in names]}


def text_section(config: _Config) -> _Config:
    """Return the section of a config that describes the language model, or else all of it."""
    return next((config[key] for key in SECTIONS if isinstance(config.get(key), dict)), config)


def _check_types(config: Mapping[str, Any], where: str) -> None:
    """Check the types of the keys that are read here: model type, architectures and sizes."""
    if config.get("model_type") is not None:
        _VALUES.text(config["model_type"], f"{where}model_type")
    names = config.get("architectures") or []
    for number, name in enumerate(_VALUES.items(names, f"{where}architectures")):
        _VALUES.text(name, f"{where}architectures[{number}]")
    for key, least in _COUNTS.items():
        if config.get(key) is not None:
            _VALUES.whole(config[key], where + key, least=least)
    for name in SECTIONS:
        if isinstance(config.get(name), dict):
            _check_types(config[name], f"{where}{name}.")
