"""Every search file of configs/ and of the showcase is valid, with stand-ins for what it names."""

import json
import re
import shutil
from pathlib import Path

import lm_eval.tasks
import pytest
from lm_tasks import only
from stand_ins import Adapter, Model, dataset_cache, hub_cache, offline, snapshot
from tiny import make_encoder
from typer.testing import CliRunner

from evomerge.cli.commands import app
from evomerge.trust.consent import Permissions
from scripts.real import pictures, seeing, sentences
from scripts.real import tasks as showcase
from scripts.real.encoders import EXPERTS
from scripts.real.searches import COMPOSITIONS, WAYS

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


@pytest.mark.parametrize("name", [*SEARCHES, *SHOWCASES])
def test_a_search_file_is_valid_as_it_is(shelf, name):
    found = validated(shelf / name)
    assert found["candidates"] > found["population"]
    on_a_benchmark = any("public benchmark" in note for note in found["warnings"])
    assert on_a_benchmark == (name == "configs/lorahub.yaml")
    if on_a_benchmark:  # adapters of one model take its memory once
        assert len(found["parents"]) == 11
        assert found["mapped_files"].startswith(f"{found['parents'][INSTRUCT]} of parents")


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
