"""Every search file of configs/ and of the showcase is valid, with stand-ins for what it names.

These are tiny models and data sets under the ids of the Hub, in a cache that its client reads
offline. Weights are random: those of the architecture, and noise that depends on the id.
"""

import json
import os
import re
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
from draws import few
from lm_tasks import only
from safetensors.torch import load_file, save_file
from tiny import make_encoder
from typer.testing import CliRunner

from evomerge.cli.commands import app
from evomerge.trust.consent import Permissions
from scripts.real import pictures, seeing, sentences
from scripts.real import tasks as showcase
from scripts.real.encoders import EXPERTS
from scripts.real.searches import COMPOSITIONS, WAYS


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
ROOT = CONFIGS.parent
FILES = sorted(path.name for path in CONFIGS.glob("*.yaml"))
SEARCHES = [f"configs/{name}" for name in FILES]
SHOWCASES = [f"scripts/real/{name}.yaml" for name in COMPOSITIONS]

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

SHOWCASE = {
    **dict.fromkeys(
        ("base", "spanish", "sums", "json", "backwards"),
        Model("llama", layers=30, tied=True),
    ),
    **dict.fromkeys(("gemma", "gemma-spanish", "gemma-sums"), Model("gemma3", layers=18)),
    **dict.fromkeys(("qwen", "qwen-json", "qwen-backwards"), Model("qwen2", layers=24, tied=True)),
}
"""Folders below runs/showcase/models, which `python -m scripts.real.prepare` makes."""


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
    for name in SHOWCASES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    hub_cache(folder, MODELS | {f"showcase/{name}": item for name, item in SHOWCASE.items()})
    hub_cache(folder, {"showcase/lora": Adapter("showcase/base")})
    dataset_cache(folder, DATA)
    models = folder / "runs" / "showcase" / "models"
    models.mkdir(parents=True)
    for name in SHOWCASE:
        (models / name).symlink_to(snapshot(folder, f"showcase/{name}"))
    base = make_encoder(models / "minilm", dense=0)
    for seed, name in enumerate(EXPERTS, start=1):
        make_encoder(models / name, seed=seed, near=base, dense=0)
    for part in seeing.untrained():
        part.save_pretrained(models / "sees")
    (models.parent / "adapters").mkdir()
    (models.parent / "adapters" / "spanish").symlink_to(snapshot(folder, "showcase/lora"))
    with pytest.MonkeyPatch.context() as patch, offline(folder):
        patch.chdir(folder)
        patch.setattr(Permissions, "require", lambda *_: None)
        patch.setattr(lm_eval.tasks, "TaskManager", only(*BUILT_IN))
        showcase.write()
        sentences.write()
        pictures.write()
        yield folder


def validated(file, *sets):
    """What `evomerge validate FILE --json` prints."""
    words = ["validate", str(file), "--json", *(part for item in sets for part in ("--set", item))]
    return json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)


@pytest.mark.parametrize("name", few([*SEARCHES, *SHOWCASES], SEARCHES))
def test_a_search_file_is_valid_as_it_is(shelf, name):
    found = validated(shelf / name)
    assert found["candidates"] > found["population"]
    on_a_benchmark = any("public benchmark" in note for note in found["warnings"])
    assert on_a_benchmark == (name == "configs/lorahub.yaml")
    if on_a_benchmark:  # adapters of one model take its memory once
        assert len(found["parents"]) == 11
        assert found["mapped_files"].startswith(f"{found['parents'][INSTRUCT]} of parents")


@pytest.mark.long
@pytest.mark.parametrize(
    "name", [name for name, ways in COMPOSITIONS.items() if "gradients" in ways]
)
def test_a_composition_of_the_showcase_is_searched_by_gradients(shelf, name):
    found = validated(shelf / "scripts" / "real" / f"{name}.yaml", *WAYS["gradients"])
    weights = [gene for gene in found["genes"] if gene["name"].endswith(".weight")]
    experts = len(found["parents"]) - 1
    assert len(weights) == 2 * found["layers"] * experts and "backward pass" in found["memory"]
    assert found["candidates"] == 12


def test_the_table_has_a_row_for_every_file():
    text = (CONFIGS / "README.md").read_text()
    lines = re.findall(r"^\| \[(\S+)\]\((\S+)\) \|(.*)\|$", text, re.M)
    assert sorted(name for name, _, _ in lines) == FILES
    assert all(name == link and rest.count("|") == 3 for name, link, rest in lines)


def test_an_answer_in_another_language_than_japanese_is_not_read(shelf):
    """`read` is what lm-eval compares with the target if a model answers so."""
    manager = lm_eval.tasks.TaskManager([str(shelf / "configs" / "tasks")], include_defaults=False)
    task = manager.load(["ja_gsm8k"])["tasks"]["ja_gsm8k"]
    task.build_all_requests(limit=1)
    (request,) = task.instances
    for answer, read in {
        "りんごは 12 個と 6 個なので、答えは 18 です。": "18",
        "合計は 1,234.50 円です。": "1,234.50",
        "The answer is 18. 答えは 18": "[invalid]",
        "数はありません。": "[invalid]",
    }.items():
        request.resps = [answer]
        task.apply_filters()
        assert list(request.filtered_resps.values()) == [read]
