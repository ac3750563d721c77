"""Search, validation and test documents from different splits of a task, or different tasks."""

import json
import sys

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_tasks import asking, requests_of
from search_run import evomerge, evomerge_json, write_search
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from evomerge.config.schema import load
from evomerge.errors import EvomergeError
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.problem.preflight import summary
from evomerge.problem.runs import prepare, problem_of
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.searching.run import evaluate
from evomerge.trust.code import Permissions

pytestmark = pytest.mark.thorough

OBJECTIVE = {"task": "t_maths", "metric": "exact_match"}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A task with a training and a test split of 60 documents each, eight of them in both."""
    folder = tmp_path_factory.mktemp("tasks")
    lines = (zoo.tasks_path() / "zoo_l2_maths.jsonl").read_text().splitlines()[:200]
    rows = [{"prompt": row["prompt"], "answer": row["answer"]} for row in map(json.loads, lines)]
    parts = {"train": rows[:60], "test": rows[52:112], "new": rows[112:142]}
    files = {}
    for part, documents in parts.items():
        files[part] = str(folder / f"{part}.jsonl")
        numbered = ({"id": f"{part}-{i}", **row} for i, row in enumerate(documents))
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(d) + "\n" for d in numbered))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "new"}
    scored = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    common = {
        **data,
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["<eos>"], "do_sample": False, "max_gen_toks": 3},
        "metric_list": [scored],
    }
    made = {
        "t_maths": {"training_split": "train", "test_split": "test"},
        "t_new": {"doc_to_text": "{{prompt}}"},
    }
    for name, body in made.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **body}))
    for name, member in (("g_maths", "t_maths"), ("g_new", "t_new")):
        average = [{"metric": "exact_match", "aggregation": "mean", "weight_by_size": True}]
        group = {"group": name, "task": [member], "aggregate_metric_list": average}
        (folder / f"{name}.yaml").write_text(json.dumps(group))
    return folder


def search_file(folder, tasks, objective=OBJECTIVE, **sections):
    evaluation = {"include": [str(tasks)], **sections}
    changes = {"objectives": [objective], "evaluation": evaluation, "budget": {"candidates": 6}}
    return write_search(folder, **changes)


SEPARATE = {
    "search": {"documents": 24, "task_split": "training"},
    "validation": {"documents": 10, "finalists": 1, "task_split": "training"},
    "test": {"documents": "all", "task_split": "test"},
}


SIZES = {"search": {"documents": 30}, "validation": {"documents": 20}}


def stock(model, tokenizer, tasks, ids, fewshot=None, **changes):
    """Return what stock lm_eval says of documents of the task, which has other settings."""
    return lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer),
        tasks=[{"group": "any", "task": [{"task": "t_maths", **changes}]}],
        num_fewshot=fewshot,
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        samples={"t_maths": list(ids)},
        bootstrap_iters=0,
    )


def test_splits_of_a_task_share_no_text(tmp_path, tasks):
    problem = prepare(load(search_file(tmp_path, tasks, **SEPARATE)), tmp_path)

    def prompts(split, ids=None):
        docs = problem.evaluator.tasks_of(split).of("t_maths").harness.tasks["t_maths"].eval_docs
        ids = problem.splits[split]["t_maths"] if ids is None else ids
        return {docs[i]["prompt"] for i in ids}

    texts = {split: prompts(split) for split in problem.splits}
    assert [len(texts[s]) for s in ("search", "validation")] == [24, 10]
    assert not texts["search"] & texts["validation"]
    assert not texts["test"] & (texts["search"] | texts["validation"])
    everything = prompts("test", range(60))
    assert everything - texts["test"] == everything & (texts["search"] | texts["validation"])


def test_another_task_can_supply_the_documents(tmp_path, tasks):
    test = {"documents": "all", "tasks": {"t_maths": "t_new"}}
    problem = prepare(load(search_file(tmp_path, tasks, **SIZES | {"test": test})), tmp_path)
    assert summary(problem)["sources"]["test"] == ["t_new:test"]
    scores = evaluate(problem, "zoo:maths", "test")
    assert scores.fidelity == {"t_maths": 30}
    assert set(scores.aggregates) == {"t_maths/exact_match"}


def test_a_group_can_take_another_split_or_another_groups_documents(tmp_path, tasks):
    objective = {"task": "g_maths", "metric": "exact_match"}
    sections = {
        "search": {"documents": 30, "task_split": "training"},
        "validation": {"documents": 20, "task_split": {"g_maths": "training"}},
        "test": {"documents": "all", "tasks": {"g_maths": "g_new"}},
    }
    problem = prepare(load(search_file(tmp_path, tasks, objective, **sections)), tmp_path)
    assert set(problem.splits["search"]) == {"t_maths"}
    assert set(problem.splits["test"]) == {"t_new"}
    scores = evaluate(problem, "zoo:maths", "test")
    assert scores.aggregates["g_maths/exact_match"] == scores.aggregates["t_new/exact_match"]


def test_a_function_can_take_the_place_of_a_function(tmp_path, tasks, monkeypatch):
    (tmp_path / "own_scores.py").write_text(
        "def ours(model, tokenizer, documents): return [0.25] * len(documents)\n"
        "def theirs(model, tokenizer, documents): return [0.75] * len(documents)\n"
        "ours.documents, theirs.documents = 50, 9\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    objective = {"task": "own_scores:ours", "metric": "score"}
    test = {"documents": "all", "tasks": {"own_scores:ours": "own_scores:theirs"}}
    file = search_file(tmp_path, tasks, objective, **SIZES, test=test)
    problem = prepare(load(file), tmp_path, Permissions(trust_code=True))
    assert evaluate(problem, "zoo:maths", "search").aggregates == {"own_scores:ours/score": 0.25}
    assert evaluate(problem, "zoo:maths", "test").aggregates == {"own_scores:ours/score": 0.75}
    sys.modules.pop("own_scores")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tasks):
    folder = tmp_path_factory.mktemp("split")
    evomerge("search", search_file(folder, tasks, **SEPARATE), "--run", folder / "run")
    return folder / "run"


def test_stock_lm_eval_gives_the_winners_scores_on_every_split(run, tasks, tmp_path):
    evomerge("export", run, "--out", tmp_path / "model")
    problem, winner = problem_of(RunFolder(run)), History(RunFolder(run).events()).winner
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    for split, part in (("search", "train"), ("validation", "train"), ("test", "test")):
        ids = problem.splits[split]["t_maths"]
        found = stock(model, tokenizer, tasks, ids, test_split=part)["results"]["t_maths"]
        recorded = winner.scores(split).aggregates["t_maths/exact_match"]
        assert found["exact_match,none"] == recorded
    frozen = RunFolder(run).manifest()
    assert frozen["sources"]["search"] == {"t_maths": "t_maths:training"}
    assert frozen["sources"]["test"] == {"t_maths": "t_maths:test"}
    rows = evomerge_json("results", run)["standings"]["rows"]
    assert all(set(row["splits"]) == {"search", "validation", "test"} for row in rows)


def test_a_run_whose_task_has_changed_is_refused(run, tasks, tmp_path):
    record = RunFolder(run).record()
    config = record.config
    other = config.evaluation.search.model_copy(update={"task_split": "test"})
    changed = config.with_values("evaluation", search=other)
    problem = prepare(record.model_copy(update={"config": changed}), tmp_path)
    with pytest.raises(EvomergeError, match=r"t_maths:training.*t_maths:test"):
        evaluate(problem, "zoo:maths", "search")


def test_few_shot_examples_are_not_the_document_itself(tasks, tmp_path):
    """They come from the split of the documents, as in lm-eval with `fewshot_split` set."""
    harness = Harness(["t_maths"], [tasks], fewshot=20).with_documents_from(
        {}, {"t_maths": "training"}, "evaluation.search"
    )
    evaluator = asking(harness)
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("maths"))
    model = AutoModelForCausalLM.from_pretrained(zoo.path("maths"), dtype="auto")
    ids = list(range(0, 60, 6))
    evaluator.prepare(model, tokenizer, {"search": {"t_maths": ids}})
    of_train = {"test_split": "train", "fewshot_split": "train"}
    found = stock(model, tokenizer, tasks, ids, 20, **of_train)["samples"]["t_maths"]
    own = requests_of(evaluator, "t_maths").values()
    contexts = [requests[0].instance.args[0] for requests in own]
    assert contexts == [sample["arguments"][0][0] for sample in found]


def test_a_mistake_is_one_sentence_that_names_the_key(tmp_path, tasks):
    """Those that need no tasks of these kinds are in `bad_input.yaml`."""
    for words, parts in (
        (r"evaluation\.test\.tasks.*group", {"test": {"tasks": {"t_maths": "g_new"}}}),
        (
            r"evaluation\.test\.documents.*t_maths:test.*are left for it",
            {
                "test": {"documents": 1, "task_split": "test"},
                "search": {"documents": 60, "task_split": "training"},
                "validation": {"documents": 52, "task_split": "test"},
            },
        ),
    ):
        sections = {split: {"documents": 5} | parts.get(split, {}) for split in SEPARATE}
        with pytest.raises(EvomergeError, match=words):
            prepare(load(search_file(tmp_path, tasks, **sections)), tmp_path)


def test_a_tag_is_refused_with_the_names_of_its_tasks(tmp_path, tasks):
    body = json.loads((tasks / "t_maths.yaml").read_text()) | {"task": "t_one", "tag": "t_tag"}
    (tmp_path / "t_one.yaml").write_text(json.dumps(body))
    file = search_file(tmp_path, tmp_path, {"task": "t_tag", "metric": "exact_match"})
    with pytest.raises(EvomergeError, match=r"'t_tag'.*t_one"):
        prepare(load(file), tmp_path)
