"""Tasks that show images are scored as lm-eval's own class for models that see scores them."""

import shutil

import pytest
import seeing
import yaml
from search_run import SMALL

import evomerge as library
from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.evaluation.objectives import stock_command
from evomerge.execute.protocol import Job
from evomerge.execute.worker import Worker
from evomerge.problem.runs import begin, prepare

pytest.importorskip("PIL")

COUNT = 18


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models that see and one that does not, and a task whose questions have two words."""
    from datasets import Dataset
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    for seed, name in enumerate(("a", "b", "text")):
        seeing.make(folder / name, "llava/text" if name == "text" else "llava", seed)
        seeing.add_processor(folder / name) if name != "text" else None
    pictures = (Image.new("RGB", (8, 8), (10 * i, 250 - 9 * i, 40 * (i % 7))) for i in range(COUNT))
    rows = [
        {"picture": picture, "question": f"w{i % 5} w{i % 3}", "answer": "w1"}
        for i, picture in enumerate(pictures)
    ]
    (folder / "tasks").mkdir()
    Dataset.from_list(rows).to_parquet(file := folder / "tasks" / "pictures.parquet")
    files = {"dataset_path": "parquet", "dataset_kwargs": {"data_files": {"test": str(file)}}}
    chrf = {"metric": "chrf", "aggregation": "chrf", "higher_is_better": True}
    task = {
        "task": "pictures",
        **files,
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_image": ["picture"],
        "doc_to_text": "<image> {{question}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [chrf],
        "generation_kwargs": {"until": ["</s>"], "max_gen_toks": 3, "do_sample": False},
    }
    (folder / "tasks" / "pictures.yaml").write_text(yaml.safe_dump(task))
    return folder


def search_file(folder, **changes):
    knobs = {"knobs": {"weight": [0.0, 1.0]}, "components": ["vision", "projector"]}
    sizes = {key: {"documents": 6} for key in ("search", "validation", "test")}
    return {
        **SMALL,
        "parents": [str(folder / "a"), str(folder / "b")],
        "base": None,
        "space": {"method": "linear", **knobs},
        "budget": {"candidates": 8},
        "objectives": [{"task": "pictures", "metric": "chrf"}],
        "evaluation": {"include": [str(folder / "tasks")], **sizes},
        **changes,
    }


@pytest.mark.parametrize("merged", [[], ["vision"]])
def test_candidates_with_one_tower_share_its_features(folder, merged):
    """The scores are those of an evaluator alone, which keeps no features."""
    space = {**search_file(folder)["space"], "components": ["attention", *merged]}
    problem = prepare(parse(search_file(folder, space=space), "search.yaml"), folder)
    worker, calls = Worker(problem), []
    half = len(problem.space.genes) // 2
    one, two = (0.2, 0.7) * half, (0.9, 0.3) * half
    for number, genome in enumerate([one, two, two]):
        recipe = problem.space.decode(genome)
        worker.evaluator.set_callbacks(None)
        plain = worker.evaluator.score(model := worker.build(recipe), "search")
        pictures, ids = (
            worker.evaluator.tasks_of("search").of("pictures"),
            plain.documents["pictures"],
        )
        texts = pictures.texts("pictures", ids)
        handle = model.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
        found = worker(Job(number, recipe))
        handle.remove()
        assert found.values == plain.values
        assert pictures.texts("pictures", ids) == texts
        assert len(set(texts.values())) > 2, "what it writes depends on the image"
    assert len(calls) == 6 * (2 if merged else 1), "6 documents, and the last two are one model"


def test_the_command_for_lm_eval_names_its_class_for_models_that_see(folder, tmp_path):
    """Its class `hf` refuses tasks with images."""
    wrote = parse(search_file(folder), "search.yaml")
    run = begin(tmp_path / "run", prepare(wrote, folder), wrote, folder / "search.yaml")
    command = stock_command(run.record(), run.path, single_thread=False, stored_dtype=False)
    assert command.startswith("lm_eval --model hf-multimodal --model_args pretrained=")


def test_what_cannot_be_done_with_images_is_refused_before_the_search(folder, tmp_path):
    bare = shutil.copytree(folder / "a", tmp_path / "bare")
    for file in bare.glob("*processor_config.json"):
        file.unlink()
    text, other = str(folder / "text"), str(folder / "b")
    again = str(shutil.copytree(text, tmp_path / "text"))
    blind = {
        "parents": [text, again],
        "space": {"method": "linear", "knobs": {"weight": [0.1, 1.0]}},
    }
    for changes, sentence in (
        ({"parents": [str(bare), other]}, r"bare' has no processor of images .*no preprocessor_c"),
        (blind, "the host .*text' has no vision tower; set `space.host`"),
        ({"tokenizer": other}, "which needs the host's tokens; set it to base"),
    ):
        with pytest.raises(InputError, match=sentence):
            library.validate(search_file(folder, **changes))
