"""Tasks that show images are scored as lm-eval's own class for models that see scores them."""

import gc
import json
import shutil

import pytest
import seeing
import yaml
from search_run import SMALL

import evomerge as library
from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.execute.protocol import Job
from evomerge.setup.runs import prepare
from evomerge.setup.tasks import load_tasks
from evomerge.setup.worker import make_worker

pytest.importorskip("PIL")

COUNT = 18


def write_task(folder, answers):
    """Write a task of pictures, whose question has two words."""
    from datasets import Dataset
    from PIL import Image

    rows = [
        {
            "picture": Image.new("RGB", (8, 8), (10 * i, 250 - 9 * i, 40 * (i % 7))),
            "question": f"w{i % 5} w{i % 3}",
            "answer": answer,
        }
        for i, answer in enumerate(answers)
    ]
    (folder / "tasks").mkdir(exist_ok=True)
    Dataset.from_list(rows).to_parquet(folder / "tasks" / "pictures.parquet")
    task = {
        "task": "pictures",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str(folder / "tasks" / "pictures.parquet")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_image": ["picture"],
        "doc_to_text": "<image> {{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["</s>"], "max_gen_toks": 3, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    (folder / "tasks" / "pictures.yaml").write_text(yaml.safe_dump(task))


def by_lm_eval(folder, model):
    """Return the samples of stock lm-eval on a model's folder, one image at a time."""
    from lm_eval import simple_evaluate
    from lm_eval.models.hf_vlms import HFMultimodalLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder / "tasks"), include_defaults=False)
    gc.freeze()  # it collects garbage after each image, which takes long beside many objects
    found = simple_evaluate(
        model=HFMultimodalLM(pretrained=seeing.load(model), batch_size=1),
        tasks=["pictures"],
        task_manager=manager,
        bootstrap_iters=0,
    )
    gc.unfreeze()
    return sorted(found["samples"]["pictures"], key=lambda sample: sample["doc_id"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models that see and one that does not; to half of the questions `a` knows the answer."""
    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("a", "b", "text")):
        seeing.make(folder / name, "llava/text" if name == "text" else "llava", seed)
        seeing.add_processor(folder / name) if name != "text" else None
    write_task(folder, ["?"] * COUNT)
    texts = [sample["resps"][0][0] for sample in by_lm_eval(folder, folder / "a")]
    assert len(set(texts)) > COUNT / 4, "what it writes depends on the image"
    write_task(folder, [text if i % 2 else "w1" for i, text in enumerate(texts)])
    return folder


def search_file(folder, **changes):
    return {
        **SMALL,
        "parents": [str(folder / name) for name in ("a", "b")],
        "base": None,
        "space": {
            "method": "linear",
            "components": ["vision", "projector"],
            "knobs": {"weight": [0.0, 1.0]},
        },
        "objectives": [{"task": "pictures", "metric": "exact_match"}],
        "evaluation": {
            "include": [str(folder / "tasks")],
            "search": {"documents": 6},
            "validation": {"documents": 6},
            "test": {"documents": 6},
        },
        "budget": {"candidates": 8},
        **changes,
    }


def test_a_parent_has_the_score_of_lm_eval(folder):
    """Texts, too: the tower of `b` is merged into `a` or not, and each time the merge sees."""
    config = parse(search_file(folder), "search.yaml")
    problem = prepare(config, folder)
    worker = make_worker(problem)
    ids = problem.splits["search"]
    for name in "ab":
        model = worker.build(problem.space.baselines()[str(folder / name)])
        scores = worker.evaluator.score(model, "search")
        texts = worker.evaluator.texts("search", "pictures", ids["pictures"])
        samples = by_lm_eval(folder, folder / name)
        assert texts == {i: samples[i]["resps"][0][0] for i in ids["pictures"]}
        found = [samples[i]["exact_match"] for i in ids["pictures"]]
        assert list(scores.of_task("pictures")["exact_match"]) == found


@pytest.mark.parametrize("merged", [[], ["vision"]])
def test_candidates_with_one_tower_share_its_features(folder, merged):
    """The scores are those of an evaluator alone, which keeps no features."""
    space = {**search_file(folder)["space"], "components": ["attention", *merged]}
    problem = prepare(parse(search_file(folder, space=space), "search.yaml"), folder)
    worker, calls = make_worker(problem), []
    half = len(problem.space.genes) // 2
    one, two = (0.2, 0.7) * half, (0.9, 0.3) * half
    for number, genome in enumerate([one, two, two]):
        recipe = problem.space.decode(genome)
        worker.evaluator.set_callbacks(None)
        plain = worker.evaluator.score(model := worker.build(recipe), "search")
        texts = worker.evaluator.texts("search", "pictures", ids := plain.documents["pictures"])
        handle = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
        found = worker(Job(number, recipe))
        handle.remove()
        assert found.values == plain.values
        assert worker.evaluator.texts("search", "pictures", ids) == texts
    assert len(calls) == 6 * (2 if merged else 1), "6 documents, and the last two are one model"


def test_a_model_without_a_processor_is_refused_before_the_search(folder, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "bare")
    for file in (tmp_path / "bare").glob("*processor_config.json"):
        file.unlink()
    parents = [str(tmp_path / "bare"), str(folder / "b")]
    with pytest.raises(
        InputError, match=r"bare' has no processor of images .*no preprocessor_conf"
    ):
        library.validate(search_file(folder, parents=parents))


def test_documents_with_one_question_and_several_images_are_several_documents(folder):
    evaluator = load_tasks(parse(search_file(folder), "search.yaml"))
    forms = evaluator.default.harness.forms("pictures", rendered=True)
    found = {form for i in range(COUNT) for form in forms(i)}
    assert len(found) == 2 * COUNT
    assert not [form for form in found if " at 0x" in form]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"parents": ["text"]}, "the host .*text' has no vision tower; set `space.host`"),
        ({"tokenizer": "b"}, "the processor of images needs the host's tokens; set it to base"),
        (
            {"objectives": [{"task": "pictures", "metric": "nll"}]},
            "an objective or constraint is `nll`, which it cannot do; change this",
        ),
        ({"optimizer": {"name": "gradient"}}, "optimizer uses gradients, which it cannot"),
    ],
)
def test_what_cannot_be_done_with_images_is_refused(folder, changes, sentence):
    text = json.dumps(changes).replace('"text"', f'"{folder}/text"').replace('"b"', f'"{folder}/b"')
    given = json.loads(text)
    if "parents" in given:
        given["space"] = {"method": "linear", "knobs": {"weight": [0.1, 1.0]}}
    with pytest.raises(InputError, match=sentence):
        library.validate(search_file(folder, **given))
