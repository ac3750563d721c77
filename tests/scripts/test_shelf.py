"""Every search file of configs/ is valid, with stand-ins for what it names.

These are tiny models and data sets under the ids of the Hub, in a cache that its client reads
offline. Weights are random: those of the architecture, and noise that depends on the id.
"""

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import lm_eval.tasks
import pytest
import tiny
import torch
from lm_tasks import only
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from evomerge.cli.commands import app
from evomerge.trust.consent import Permissions


@dataclass(frozen=True)
class Model:
    """A causal model of an architecture of `tiny.CONFIGS`."""

    architecture: str = "llama"
    layers: int = 2
    extra_tokens: int = 0
    tied: bool | None = None
    dtype: str = "bfloat16"


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter of a model in the same cache (`base`: its id, without revision)."""

    base: str
    rank: int = 2
    targets: tuple[str, ...] = ("self_attn.q_proj", "self_attn.v_proj")


Rows = Sequence[Mapping[str, Any]]


def hub_cache(folder: Path, repositories: Mapping[str, Model | Adapter]) -> Path:
    """Add repositories to the cache of the Hub's client in a folder, and return the folder."""
    with tempfile.TemporaryDirectory() as place:
        for name, item in repositories.items():
            target = snapshot(folder, name)
            branch = _repository(folder, name) / "refs" / (name.partition("@")[2] or "main")
            branch.parent.mkdir(parents=True, exist_ok=True)
            branch.write_text(_commit(name))
            target.mkdir(parents=True)
            seed = zlib.crc32(name.encode())
            if isinstance(item, Adapter):
                _write_adapter(target, item, snapshot(folder, item.base), seed)
            else:
                _write_model(target, _template(Path(place), item), seed)
    return folder


def dataset_cache(folder: Path, data: Mapping[str, Mapping[str, Mapping[str, Rows]]]) -> Path:
    """Add data sets to the cache of the library datasets in a folder, and return the folder."""
    from datasets import Dataset, DatasetInfo, Split
    from datasets.arrow_writer import ArrowWriter
    from datasets.naming import camelcase_to_snakecase
    from datasets.splits import SplitDict, SplitInfo

    for name, configurations in data.items():
        owner, _, own = name.rpartition("/")
        stem = camelcase_to_snakecase(own)
        parent = folder / "datasets" / (f"{owner}___{stem}" if owner else stem)
        for configuration, splits in configurations.items():
            place = parent / configuration / "0.0.0" / ("0" * 40)
            place.mkdir(parents=True)
            sizes = SplitDict(dataset_name=stem)
            for split, rows in splits.items():
                table = Dataset.from_list([dict(row) for row in rows])
                file = str(place / f"{stem}-{split}.arrow")
                with ArrowWriter(path=file, features=table.features) as writer:
                    writer.write_table(table.data.table)
                    writer.finalize()
                sizes[split] = SplitInfo(str(Split(split)), num_examples=len(rows))
            about = {"dataset_name": stem, "config_name": configuration, "splits": sizes}
            form = {"features": table.features, "builder_name": "parquet", "version": "0.0.0"}
            DatasetInfo(**about, **form).write_to_directory(str(place))
    return folder


@contextmanager
def offline(folder: Path) -> Iterator[None]:
    """Let this process find only what is in the folder; nothing is downloaded."""
    import datasets.config
    from huggingface_hub import constants

    hub, sets = {"HF_HUB_CACHE": str(folder / "hub")}, {"HF_DATASETS_CACHE": folder / "datasets"}
    variables = {**hub, "HF_DATASETS_CACHE": str(folder / "datasets"), "HF_HUB_OFFLINE": "1"}
    with (
        mock.patch.dict(os.environ, variables),
        mock.patch.multiple(constants, **hub, HF_HUB_OFFLINE=True),
        mock.patch.multiple(datasets.config, **sets, HF_HUB_OFFLINE=True),
    ):
        yield


def snapshot(folder: Path, name: str) -> Path:
    """Return the folder with the files of `org/name` or `org/name@revision` in a cache."""
    return _repository(folder, name) / "snapshots" / _commit(name)


def _repository(folder: Path, name: str) -> Path:
    return folder / "hub" / f"models--{name.partition('@')[0].replace('/', '--')}"


def _commit(name: str) -> str:
    return f"{zlib.crc32(name.encode()):08x}" * 5


def _template(place: Path, item: Model) -> Path:
    """Return a model of this architecture and size, made once."""
    folder = place / repr(item)
    if not folder.exists():
        words = [*tiny.WORDS, *(f"extra{i}" for i in range(item.extra_tokens))]
        changes = {"num_hidden_layers": item.layers, "layer_types": None, "vocab_size": len(words)}
        about = {"dtype": item.dtype, "tied": item.tied, "tokenizer": False}
        tiny.make(folder, item.architecture, **about, **changes, max_position_embeddings=4096)
        tiny.save_tokenizer(folder, words)
    return folder


def _write_model(target: Path, template: Path, seed: int) -> None:
    for file in template.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, target)
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: (tensor + 0.02 * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
        for name, tensor in load_file(template / "model.safetensors").items()
    }
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def _write_adapter(target: Path, item: Adapter, base: Path, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, weight in sorted(load_file(base / "model.safetensors").items()):
        if name.removesuffix(".weight").endswith(item.targets):
            rows, columns = weight.shape
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            for part, shape in (("A", (item.rank, columns)), ("B", (rows, item.rank))):
                drawn = torch.randn(shape, generator=generator)
                tensors[f"{stem}.lora_{part}.weight"] = 0.05 * drawn
    save_file(tensors, target / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = sorted(name.rpartition(".")[2] for name in item.targets)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": item.base,
        "r": item.rank, "lora_alpha": item.rank, "target_modules": targets,
    }  # fmt: skip
    (target / "adapter_config.json").write_text(json.dumps(config))


pytestmark = pytest.mark.thorough

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.name for path in CONFIGS.glob("*.yaml"))

MISTRAL = Model("mistral", layers=32)
PADDED = Model("mistral", layers=32, extra_tokens=1)
INSTRUCT = "mistralai/Mistral-7B-Instruct-v0.2"
LORAS = "Lots-of-LoRAs/Mistral-7B-Instruct-v0.2-4b-r16-task"

MODELS = {
    "mistralai/Mistral-7B-v0.1": MISTRAL,
    INSTRUCT: MISTRAL,
    "augmxnt/shisa-gamma-7b-v1": MISTRAL,
    "WizardLMTeam/WizardMath-7B-V1.1": PADDED,
    "GAIR/Abel-7B-002": PADDED,
    **{
        f"{LORAS}{number}": Adapter(INSTRUCT)
        for number in (581, 909, 132, 1344, 1577, 1236, 785, 172, 1605, 1391)
    },
}


def japanese(text):
    return {"question": f"{text}は何ですか", "answer_number": 7}


def dates(text):
    return {"input": f"When was {text}?\n(A) today\n(B) yesterday", "target": "(B)"}


def rows(make, **sizes):
    return {split: [make(f"{split} {i}") for i in range(size)] for split, size in sizes.items()}


DATA = {
    "SakanaAI/gsm8k-ja-test_250-1319": {"default": rows(japanese, test=1069)},
    "juletxara/mgsm": {"ja": rows(lambda text: japanese(f"次の{text}"), train=8, test=250)},
    "SaylorTwift/bbh": {"date_understanding": rows(dates, test=250)},
}
"""Data set -> configuration -> split -> documents: as many as the search files take."""

BUILT_IN = ["bbh/zeroshot"]
"""Folders of lm-eval with the tasks that the shelf names."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A copy of the search files with all that they name in reach."""
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copytree(CONFIGS, folder / "configs")
    hub_cache(folder, MODELS)
    dataset_cache(folder, DATA)
    with pytest.MonkeyPatch.context() as patch, offline(folder):
        patch.chdir(folder)
        patch.setattr(Permissions, "require", lambda *_: None)
        patch.setattr(lm_eval.tasks, "TaskManager", only(*BUILT_IN))
        yield folder


@pytest.mark.parametrize("name", FILES)
def test_a_search_file_is_valid_as_it_is(shelf, name):
    words = ["validate", f"configs/{name}", "--json"]
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert found["candidates"] > found["population"]
    on_a_benchmark = any("public benchmark" in note for note in found["warnings"])
    assert on_a_benchmark == (name == "lorahub.yaml")
    if on_a_benchmark:  # adapters of one model take its memory once
        assert len(found["parents"]) == 11
        assert found["mapped_files"].startswith(f"{found['parents'][INSTRUCT]} of parents")
