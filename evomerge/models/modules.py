"""The modules of a sentence encoder: pooling, projections and more, which follow the transformer.

`modules.json` of sentence-transformers lists them. Each has a folder of its own with its settings
and weights; the transformer has the model's folder. The classes are sentence-transformers' own.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.safetensors import read_json
from evomerge.parsing.texts import json_value, read_text
from evomerge.parsing.values import Values, shown

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
"""Names of what compares two embeddings."""

KINDS = ("Pooling", "Dense", "Normalize", "LayerNorm", "Dropout")
"""Classes of modules behind the transformer that are run, and whose weights are merged."""

STACK = "evomerge_modules"
"""Attribute of a model in memory to which its modules were added: its `ModuleStack`."""

_CLASS = re.compile(r"sentence_transformers(\.\w+)*\.(\w+)")
_FOLDER = re.compile(r"[\w-]+", re.ASCII)
_POOLING = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of former versions of sentence-transformers -> the value of `pooling_mode`."""

_USUAL = (
    *((f"module_{end}_name", "sentence_embedding") for end in ("input", "output")),
    ("use_residual", False),
)
"""Settings that files of some versions of sentence-transformers have, and others leave out."""

_PLAIN: Mapping[str, Any] = {
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}
"""Settings of a transformer that makes one vector of each token; its model's class may be any."""

_READ = ("max_seq_length", "do_lower_case", "unpad_inputs")
"""Further settings of the transformer that need no other treatment, or have their own here."""

_VALUES = Values(CheckpointError)


@dataclass(frozen=True)
class Module:
    """One module: its folder (empty: the model's own), its class and its settings."""

    folder: str
    kind: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class ModuleStack:
    """The modules of a sentence encoder, the transformer first.

    Every merge has the host's `files` of settings. `settings` are those of the whole encoder:
    prompts, the similarity of two embeddings.
    """

    modules: tuple[Module, ...]
    files: tuple[Path, ...]
    settings: Mapping[str, Any]

    @property
    def folders(self) -> tuple[str, ...]:
        """The folders of the modules behind the transformer."""
        return tuple(module.folder for module in self.modules[1:])

    @cached_property
    def prompts(self) -> dict[str, str]:
        """What is written before a text, by name; a default of sentence-transformers included."""
        return {"query": "", "document": "", **(self.settings.get("prompts") or {})}

    @property
    def similarity(self) -> str:
        """How two embeddings are compared, one of `SIMILARITIES`."""
        return self.settings.get("similarity_fn_name") or "cosine"

    def in_words(self) -> str:
        """Return what follows the transformer, such as `mean pooling, Dense, Normalize`."""
        return ", ".join(
            f"{_plain_settings(it)['pooling_mode']} pooling" if it.kind == "Pooling" else it.kind
            for it in self.modules[1:]
        )

    def obstacle(self) -> str | None:
        """Return why texts cannot be encoded as sentence-transformers does it; None: they can."""
        kind = self.settings.get("model_type", "SentenceTransformer")
        if kind != "SentenceTransformer":
            return f"{SETTINGS} says that it is a {kind}"
        if (first := self.modules[0]).kind != "Transformer":
            return f"its first module is a {first.kind}, not a Transformer"
        for module in self.modules[1:]:
            if module.kind not in KINDS:
                return f"it has a module {module.kind}, and known are {', '.join(KINDS)}"
        for key, value in first.settings.items():
            if value and key not in _READ and value != _PLAIN.get(key):
                return f"the settings of its transformer have {key} {shown(value)}"
        if self.similarity not in SIMILARITIES:
            return f"{SETTINGS} has similarity_fn_name {shown(self.similarity)}"
        return None

    def plain(self) -> Iterator[tuple[str, Any]]:
        """Yield name and value of each setting that changes embeddings, but no lengths of texts.

        They are the same for files of all versions of sentence-transformers.
        """
        yield "modules", ", ".join(module.kind for module in self.modules)
        for module in self.modules[1:]:
            for key, value in _plain_settings(module).items():
                yield f"{module.kind}.{key}", value
        yield "do_lower_case", self.modules[0].settings.get("do_lower_case") or None
        yield "prompts", {name: text for name, text in self.prompts.items() if text} or None
        for key in ("default_prompt_name", "truncate_dim"):
            yield key, self.settings.get(key)
        yield "similarity_fn_name", self.similarity


def _plain_settings(module: Module) -> dict[str, Any]:
    """Return the settings of a module that say what it computes, with their present names."""
    known = dict(module.settings)
    if module.kind != "Pooling":
        return {key: value for key, value in known.items() if (key, value) not in _USUAL}
    modes = [mode for key, mode in _POOLING.items() if known.get(key)] or ["mean"]
    given = known.get("pooling_mode", modes)
    return {
        "pooling_mode": given if isinstance(given, str) else ", ".join(map(str, given)),
        "include_prompt": known.get("include_prompt", True),
    }


def read_stack(folder: Path, reference: str) -> ModuleStack | None:
    """Read the modules of a model's folder; None: it has no `modules.json`.

    CheckpointError: a file is damaged; a module has a class that is not one of
    sentence-transformers, or a folder that is none in the model's.
    """
    file = folder / MODULES
    if not file.is_file():
        return None
    listed = json_value(read_text(file, CheckpointError), str(file), CheckpointError)
    modules, files = [], [file]
    for number, item in enumerate(_VALUES.items(listed, str(file), least=1)):
        where = f"{file}[{number}]"
        entry = _VALUES.mapping(item, where)
        kind = _kind(_VALUES.text(entry.get("type"), f"{where}.type"), reference)
        path = entry.get("path")
        if number == 0 and path not in ("", "."):
            raise CheckpointError(
                f"Parent {reference!r} has its transformer in the folder {shown(path)}; load it "
                "with `SentenceTransformer(FOLDER)` and save it with `save_pretrained`."
            )
        if number and not (isinstance(path, str) and _FOLDER.fullmatch(path)):
            raise _VALUES.wrong(path, f"{where}.path", "the name of a folder beside the file")
        inner, name = (str(path), "config.json") if number else ("", "sentence_*_config.json")
        present = sorted(filter(Path.is_file, (folder / inner).glob(name)))[:1]
        files += present
        settings = read_json(present[0]) if present else {}
        if not number and settings.get("max_seq_length") is not None:
            _VALUES.whole(settings["max_seq_length"], f"{present[0]}: max_seq_length", least=1)
        modules.append(Module(inner, kind, settings))
    files += filter(Path.is_file, [folder / SETTINGS])
    of_encoder = _checked(read_json(folder / SETTINGS)) if files[-1].name == SETTINGS else {}
    return ModuleStack(tuple(modules), tuple(files), of_encoder)


def _kind(name: str, reference: str) -> str:
    """Return the last part of the name of a class, after checking whose class it is."""
    match = _CLASS.fullmatch(name)
    if match is None:
        raise CheckpointError(
            f"Parent {reference!r}: {MODULES} names the class {shown(name)}, which is not one of "
            "sentence-transformers, and code that comes with a model is not run; remove the file "
            "to merge the transformer alone."
        )
    return match[2]


def _checked(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the settings of the whole model, after checking the types of those that are used."""
    prompts = settings.get("prompts") or {}
    for name, text in _VALUES.mapping(prompts, f"{SETTINGS}: prompts").items():
        if text is not None and not isinstance(text, str):
            raise _VALUES.wrong(text, f"{SETTINGS}: prompts.{name}", "text")
    for key in ("default_prompt_name", "similarity_fn_name"):
        if settings.get(key) is not None:
            _VALUES.text(settings[key], f"{SETTINGS}: {key}")
    if settings.get("truncate_dim") is not None:
        _VALUES.whole(settings["truncate_dim"], f"{SETTINGS}: truncate_dim", least=1)
    return {**settings, "prompts": {name: text or "" for name, text in prompts.items()}}
