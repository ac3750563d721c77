"""A search on texts that are drawn at random takes one course, wherever and however it runs."""

import json
import signal

import pytest
from search_run import events_of, evomerge, evomerge_json, kill_when, write_search

from evomerge import resume, zoo

pytestmark = pytest.mark.thorough

TASK = """
task: sampled_maths
include: {zoo}
generation_kwargs: {{until: ["<eos>"], max_gen_toks: 3}}
repeats: 3
filter_list:
  - name: vote
    filter: [{{function: majority_vote}}, {{function: take_first}}]
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    (folder / "tasks").mkdir()
    task = zoo.tasks_path() / "zoo_l2_maths.yaml"
    (folder / "tasks" / "sampled_maths.yaml").write_text(TASK.format(zoo=task))
    return write_search(
        folder,
        objectives=[{"task": "sampled_maths", "metric": "exact_match"}],
        evaluation={
            "include": [str(folder / "tasks")],
            "search": {"documents": 24},
            "validation": {"documents": 16, "finalists": 2},
            "test": {"documents": 32},
            "generation": {"do_sample": True, "temperature": 0.6, "top_p": 0.95},
            "racing": {"enabled": True, "minimum": 8},
        },
        budget={"candidates": 14},
    )


@pytest.fixture(scope="module")
def run(file):
    """A search in one process that was never interrupted."""
    evomerge("search", file, "--run", file.parent / "run")
    return file.parent / "run"


def test_one_process_that_is_killed_and_two_that_go_on_take_the_same_course(run, file, tmp_path):
    broken = tmp_path / "run"
    begun = ["search", file, "--run", broken]
    assert kill_when(begun, broken / "journal.jsonl", 14, 0.0) == -signal.SIGKILL
    resume(broken, kind="processes", workers=2, progress=False)
    assert events_of(broken) == events_of(run)


def test_the_export_has_the_recorded_score_and_people_are_told(run, file, tmp_path):
    model = tmp_path / "model"
    evomerge("report", run, "--out", tmp_path / "report.html")
    evomerge("export", run, "--out", model)
    answer = evomerge_json("evaluate", model, "--config", file)
    table = evomerge_json("results", run)
    (row,) = [row for row in table["standings"]["rows"] if row["label"] == "searched"]
    score = answer["scores"]["sampled_maths/exact_match"]["value"]
    assert score == row["splits"]["test"]["sampled_maths/exact_match"]["value"]
    assert '--gen_kwargs \'{"do_sample": true, "temperature": 0.6' in table["lm_eval"]
    note = "Texts are drawn at random: sampled_maths (3 for each document)."
    for said in (
        (model / "README.md").read_text(),
        evomerge("validate", file).stdout,
        evomerge("results", run).stderr,
        (tmp_path / "report.html").read_text(),
    ):
        assert note in " ".join(said.split())
    assert json.loads(evomerge("validate", file, "--json").stdout)["sampling"].startswith(note)
