"""A search in stages: the winner of one is a parent of the next; killed, it continues."""

import signal

import yaml
from search_run import SMALL, evomerge, evomerge_json, kill_when

STAGED = {
    "dtype": "float32",
    "objectives": SMALL["objectives"],
    "evaluation": SMALL["evaluation"],
    "stages": [
        {
            "parents": ["zoo:language", "zoo:maths"],
            "base": "zoo:base",
            "space": SMALL["space"],
            "budget": {"candidates": 12},
        },
        {
            "parents": ["stage:1", "zoo:maths"],
            "space": {"kind": "dataflow", "variant": "swaps", "scales": 1.0},
            "optimizer": {"name": "discrete-lengler"},
            "budget": {"candidates": 8},
        },
    ],
}


def write(folder, data=STAGED):
    (folder / "staged.yaml").write_text(yaml.safe_dump(data))
    return folder / "staged.yaml"


def test_stages_run_in_turn_and_survive_a_kill(tmp_path):
    file = write(tmp_path)
    run = tmp_path / "run"
    journal = run / "stage-1" / "journal.jsonl"
    assert kill_when(["search", file, "--run", run], journal, 15, 0.0) == -signal.SIGKILL
    assert not (run / "stage-2").exists()
    evomerge("resume", run)
    first = evomerge_json("results", run / "stage-1")
    rows = evomerge_json("results", run)["candidates"]
    assert len(rows) == 8
    winner = first["candidates"][first["winner"]]
    assert rows[0]["origin"] == f"run:{run / 'stage-1'}"
    # The same weights, scored on the same documents, through another run.
    assert rows[0]["test zoo_l2_maths/exact_match"] == winner["test zoo_l2_maths/exact_match"]
    evomerge("export", run, "--out", tmp_path / "model")
    assert (tmp_path / "model" / "config.json").exists()


def test_a_mistake_in_a_later_stage_is_found_first(tmp_path):
    wrong = {**STAGED, "stages": [STAGED["stages"][0], {**STAGED["stages"][1]}]}
    wrong["stages"][1]["space"] = {"kind": "dataflow", "variant": "swap"}
    done = evomerge("search", write(tmp_path, wrong), "--run", tmp_path / "run", code=2)
    assert "stage 2" in done.stderr
    assert "Did you mean 'swaps'" in done.stderr
    assert not (tmp_path / "run").exists()
    wrong["stages"][1] = {**STAGED["stages"][1], "parents": ["stage:2", "zoo:maths"]}
    done = evomerge("validate", write(tmp_path, wrong), code=2)
    assert "'stage:2' is not an earlier stage" in done.stderr
