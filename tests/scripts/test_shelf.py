"""Every file of configs/ is valid as it is, with stand-ins for the models and data it names."""

import json
import re
import shutil
import zlib
from functools import cache
from pathlib import Path

import lm_eval.tasks
import pytest
from few_tasks import only
from stand_ins import Adapter, Model, dataset_cache, hub_cache, offline, snapshot
from tiny import make_encoder
from typer.testing import CliRunner

from evomerge.cli.commands import app
from evomerge.config.schema import load
from evomerge.export.recipe import merge_recipe
from evomerge.models.checkpoint import Checkpoint
from evomerge.setup.runs import prepare
from evomerge.setup.worker import make_worker
from evomerge.trust.consent import Permissions
from scripts.real import pictures, seeing, sentences
from scripts.real import tasks as showcase
from scripts.real.encoders import EXPERTS
from scripts.real.searches import COMPOSITIONS, WAYS

pytestmark = pytest.mark.thorough

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(path.name for path in CONFIGS.glob("*.yaml"))
RECIPES = ["goliath-stack.yaml"]
SEARCHES = [name for name in FILES if name not in RECIPES]

MISTRAL, LLAMA3 = Model("mistral", layers=32), Model("llama", layers=32)
PADDED = Model("mistral", layers=32, extra_tokens=1)
LLAMA2_70B, OLMO = Model("llama", layers=80), Model("olmo2", layers=16)
QWEN3 = Model("qwen3", layers=36, chat_template=True)
INSTRUCT = "mistralai/Mistral-7B-Instruct-v0.2"
LORAS = "Lots-of-LoRAs/Mistral-7B-Instruct-v0.2-4b-r16-task"

MODELS = {
    "mistralai/Mistral-7B-v0.1": MISTRAL,
    "mistralai/Mistral-7B-Instruct-v0.1": MISTRAL,
    INSTRUCT: MISTRAL,
    "augmxnt/shisa-gamma-7b-v1": MISTRAL,
    "WizardLMTeam/WizardMath-7B-V1.1": PADDED,
    "GAIR/Abel-7B-002": PADDED,
    "llava-hf/llava-v1.6-mistral-7b-hf": Model("llava_next", layers=32),
    "BioMistral/BioMistral-7B": MISTRAL,
    "HuggingFaceH4/zephyr-7b-beta": MISTRAL,
    "Intel/neural-chat-7b-v3-1": MISTRAL,
    "Open-Orca/Mistral-7B-OpenOrca": PADDED,
    "berkeley-nest/Starling-LM-7B-alpha": PADDED,
    "meta-math/MetaMath-Mistral-7B": PADDED,
    "openchat/openchat-3.5-0106": PADDED,
    "teknium/OpenHermes-2.5-Mistral-7B": PADDED,
    "upaya07/Arithmo2-Mistral-7B": MISTRAL,
    "predibase/drop": Adapter("mistralai/Mistral-7B-v0.1"),
    "predibase/cnn": Adapter("mistralai/Mistral-7B-v0.1"),
    **{
        f"{LORAS}{number}": Adapter(INSTRUCT)
        for number in (581, 909, 132, 1344, 1577, 1236, 785, 172, 1605, 1391)
    },
    "Xwin-LM/Xwin-LM-70B-V0.1": LLAMA2_70B,
    "Sao10K/Euryale-1.3-L2-70B": LLAMA2_70B,
    **{
        f"allenai/OLMo-2-0425-1B@stage2-ingredient{number}-step23852-tokens51B": OLMO
        for number in (1, 2, 3)
    },
    "Qwen/Qwen3-4B-Instruct-2507": QWEN3,
    "Qwen/Qwen3-4B-Thinking-2507": QWEN3,
    "meta-llama/Llama-3.1-8B": LLAMA3,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA3,
    "allenai/Llama-3.1-Tulu-3-8B": Model("llama", layers=32, extra_tokens=1),
    "nvidia/OpenMath2-Llama3.1-8B": LLAMA3,
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


def choices(text):
    options = {"text": ["one", "two", "three", "four"], "label": ["A", "B", "C", "D"]}
    return {"id": text, "question": f"which is {text}", "choices": options, "answerKey": "B"}


def medqa(text):
    return {
        "sent1": text,
        **{f"ending{i}": f"drug {i}" for i in range(4)},
        "label": 1,
    }


def medmcqa(text):
    return {"question": text, **{f"op{letter}": f"organ {letter}" for letter in "abcd"}, "cop": 2}


def hellaswag(text):
    context = {"ctx_a": f"a person {text}.", "ctx_b": "then", "activity_label": "walking"}
    return {**context, "endings": ["goes", "comes", "sits", "stands"], "label": "1"}


def winogrande(text):
    options = {"option1": "cat", "option2": "dog", "answer": "1"}
    return {"sentence": f"in {text} the cat saw the dog because _ looked", **options}


def drop(text):
    number = {"number": "7", "date": {"day": "", "month": "", "year": ""}, "spans": []}
    more = {key: [value] for key, value in number.items()}
    return {
        "query_id": text,
        "passage": f"{text} has 7 parts.",
        "question": f"How many parts has {text}?",
        "answer": number,
        "validated_answers": more,
    }


def gsm8k(text):
    return {"question": f"What is 3 + 4 in {text}?", "answer": "It is 3 + 4.\n#### 7"}


def ja_maths(text):
    return {"question": f"{text}は何ですか", "answer_number": 7}


def ja_mgsm(text):
    return {"question": f"{text}はいくつですか", "answer_number": 7}


def news(text):
    return {"article": f"{text} happened.", "highlights": f"{text}.", "id": text}


def bbh(text):
    return {"input": f"When was {text}?\n(A) today\n(B) yesterday", "target": "(B)"}


def ja_image(text):
    from PIL import Image

    colour = (zlib.crc32(text.encode()) & 0xFFFFFF).to_bytes(3, "big")
    questions = [{"question": f"w1 {text}", "answer": "w3 w4 w5"}]
    return {"image": Image.new("RGB", (8, 8), tuple(colour)), "qas": questions}


def data_set(make, configuration="default", **sizes):
    return {
        configuration: {
            split: [make(f"{split} {i}") for i in range(size)] for split, size in sizes.items()
        }
    }


DATA = {
    "SakanaAI/gsm8k-ja-test_250-1319": data_set(ja_maths, test=1069),
    "juletxara/mgsm": data_set(ja_mgsm, "ja", train=8, test=250),
    "openai/gsm8k": data_set(gsm8k, "main", train=600, test=500),
    "allenai/ai2_arc": data_set(choices, "ARC-Challenge", train=600, validation=9, test=500),
    "Rowan/hellaswag": data_set(hellaswag, train=600, validation=500, test=9),
    "allenai/winogrande": data_set(winogrande, "winogrande_xl", train=600, validation=500),
    "GBaker/MedQA-USMLE-4-options-hf": data_set(medqa, train=600, validation=9, test=99),
    "openlifescienceai/medmcqa": data_set(medmcqa, train=600, validation=99, test=9),
    "EleutherAI/drop": data_set(drop, train=300, validation=500),
    "abisee/cnn_dailymail": data_set(news, "3.0.0", train=300, validation=9, test=500),
    "SaylorTwift/bbh": data_set(bbh, "date_understanding", test=250),
    "SakanaAI/JA-VG-VQA-500": data_set(ja_image, test=500),
}
"""Data set -> configuration -> split -> documents: as many as the search files take."""

BUILT_IN = ["arc", "bbh/zeroshot", "drop", "gsm8k", "hellaswag", "medmcqa", "medqa", "winogrande"]
"""Folders of lm-eval with the tasks that the shelf names."""


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A copy of configs/ with all that its files name in reach."""
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copytree(CONFIGS, folder / "configs")
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
        for recipe in (folder / "configs" / "pool-small").glob("*.yaml"):
            merge_recipe(recipe, folder / "runs" / "pool-small" / recipe.stem, "8GB", "5GB")
        yield folder / "configs"


@cache
def validated(file):
    """What `evomerge validate FILE --json` prints."""
    result = CliRunner().invoke(app, ["validate", str(file), "--json"], catch_exceptions=False)
    return json.loads(result.stdout)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_file_is_valid_as_it_is(shelf, name):
    found = validated(shelf / name)
    assert found["candidates"] > found["population"]
    on_a_benchmark = any("public benchmark" in note for note in found["warnings"])
    assert on_a_benchmark == (name == "lorahub.yaml")


@pytest.mark.parametrize(
    "name", [name for name, ways in COMPOSITIONS.items() if "gradients" in ways]
)
def test_a_composition_of_the_showcase_is_searched_by_gradients(shelf, name):
    sets = [part for change in WAYS["gradients"] for part in ("--set", change)]
    file = shelf / f"showcase-{name}.yaml"
    result = CliRunner().invoke(app, ["validate", str(file), "--json", *sets])
    found = json.loads(result.stdout)
    weights = [gene for gene in found["genes"] if gene["name"].endswith(".weight")]
    experts = len(found["parents"]) - 1
    assert len(weights) == 2 * found["layers"] * experts and "backward pass" in found["memory"]
    assert found["candidates"] == 12


def test_adapters_of_one_model_take_its_memory_once(shelf):
    found = validated(shelf / "lorahub.yaml")
    one_model = found["parents"][INSTRUCT]
    assert len(found["parents"]) == 11
    assert found["mapped_files"].startswith(f"{one_model} of parents")


def test_a_host_that_can_see_keeps_its_architecture_in_a_parameter_space(shelf):
    found = validated(shelf / "evovlm-jp.yaml")
    assert found["architecture"] == "LlavaNextForConditionalGeneration"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_merges_as_it_is(shelf, name, tmp_path):
    merge_recipe(shelf / name, tmp_path / "out", "8GB", "5GB")
    assert Checkpoint.open(tmp_path / "out", "merged").config["num_hidden_layers"] == 137


@pytest.mark.parametrize("name", FILES)
def test_a_file_opens_with_what_it_is_its_command_and_its_cost(name):
    """Costs of the showcase's searches are in docs/results.md."""
    comment = re.match(r"(#.*\n)+", (CONFIGS / name).read_text())[0]
    command = "merge" if name in RECIPES else "search"
    assert re.search(rf"^#   .*evomerge {command} configs/{name} --", comment, re.M)
    assert "\n# Cost: " in comment
    assert ("not run" in comment) == ("Estimate:" in comment)


def test_the_table_has_a_row_for_every_file():
    text = (CONFIGS / "README.md").read_text()
    rows = re.findall(r"^\| \[(\S+)\]\((\S+)\) \|(.*)\|$", text, re.M)
    assert sorted(name for name, _, _ in rows) == FILES
    assert all(name == link and rest.count("|") == 5 for name, link, rest in rows)


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        ("りんごは 12 個と 6 個なので、答えは 18 です。", "18"),
        ("合計は 1,234.50 円です。", "1,234.50"),
        ("18", "[invalid]"),
        ("The answer is 18. 答えは 18", "[invalid]"),
        ("数はありません。", "[invalid]"),
    ],
)
def test_an_answer_in_another_language_than_japanese_is_not_read(shelf, answer, read):
    assert filtered(shelf, "ja_gsm8k", answer) == read


@pytest.mark.parametrize(
    ("answer", "read"),
    [
        (r"First \boxed{3}, then it is \boxed{1,200}.", "1,200"),
        (r"It costs \boxed{\$18}.", "18"),
        ("It is 18, I think, but let me", "[invalid]"),
    ],
)
def test_an_answer_that_is_not_finished_is_not_read(shelf, answer, read):
    assert filtered(shelf, "gsm8k_2048_tokens", answer) == read


def filtered(shelf, task, answer):
    """What lm-eval compares with the target if a model answers so."""
    manager = lm_eval.tasks.TaskManager([str(shelf / "tasks")], include_defaults=False)
    found = manager.load([task])["tasks"][task]
    found.build_all_requests(limit=1)
    (request,) = found.instances
    request.resps = [answer]
    found.apply_filters()
    (result,) = request.filtered_resps.values()
    return result


def test_evovlm_is_scored_by_its_answers_about_images(shelf):
    """Prompts are in LLaVA's chat template, and what the model writes depends on an image."""
    file = shelf / "evovlm-jp.yaml"
    problem = prepare(load(file), file.parent)
    evaluator, task = (worker := make_worker(problem)).evaluator, "ja_vg_vqa"
    ids = problem.splits["search"][task][:4]
    model = worker.build(next(iter(problem.space.baselines().values())))
    scores = evaluator.score(model, "search", {task: ids})
    (example, *_) = evaluator.examples(scores, "search", 1)
    question = DATA["SakanaAI/JA-VG-VQA-500"]["default"]["test"][min(ids)]["qas"][0]["question"]
    assert example.prompt == f"[INST] <image>\n{question} 日本語で答えてください。 [/INST]"
    texts = evaluator.texts("search", task, ids)
    assert len(set(texts.values())) > 1
    subject = evaluator.default.harness._tasks[task]
    for answer, value in (("赤い 車です", 3 / 4), ("", 0.0), ("赤い車", 1.0)):
        document = {"qas": [{"question": "?", "answer": "赤い車"}]}
        assert subject.process_results(document, [answer]) == {"rougeL": pytest.approx(value)}
