"""`evomerge sweep`: one command that can be killed and repeated, and its table."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path
from statistics import fmean, stdev

import pytest
import yaml
from search_run import SMALL, ended, events_of, evomerge, start, write_search

import evomerge as api
from evomerge.api.search import with_bar
from evomerge.api.sweep import parse_seeds, parse_values, plan, run_sweep
from evomerge.errors import InputError
from evomerge.report.confidence import compare
from evomerge.report.sweep_page import best_over_cost, write_sweep
from evomerge.report.sweeps import Ran, SweepTable
from evomerge.run.journal import Journal
from evomerge.trust.consent import NOTHING

BUDGET = {"budget": {"candidates": 6}}
SETS = ["--set", "optimizer.name=cma,random"]


def journals(runs: Path) -> dict[str, bytes]:
    return {item.parent.name: item.read_bytes() for item in sorted(runs.glob("*/journal.jsonl"))}


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> tuple[Path, Path, SweepTable]:
    """A file, a folder of runs with two optimizers and two seeds, and their table."""
    folder = tmp_path_factory.mktemp("sweep")
    file = write_search(folder, **BUDGET)
    table = api.sweep(
        [file],
        folder / "runs",
        seeds=[0, 1],
        values={"optimizer.name": ["cma", "random"]},
        progress=False,
    )
    return file, folder / "runs", table


def test_each_search_is_the_one_that_the_command_search_runs(swept, tmp_path):
    file, runs, _ = swept
    assert set(journals(runs)) == {"search-cma-0", "search-cma-1", "search-random-0"} | {
        "search-random-1"
    }
    sets = ["--set", "optimizer.name=random", "--set", "seed=1"]
    evomerge("search", file, "--run", tmp_path / "alone", *sets)
    assert events_of(tmp_path / "alone") == events_of(runs / "search-random-1")


def test_the_table_has_means_and_intervals_over_seeds(swept):
    _, runs, table = swept
    found = [api.Run(runs / f"search-cma-{seed}") for seed in (0, 1)]
    tests = [run.standings[run.standings.split == "test"] for run in found]
    values = [float(item[item.model.isin(["searched", "winner"])].value.iloc[0]) for item in tests]
    score = table.score("search-cma")
    assert math.isclose(score.value, fmean(values))
    spread = 12.706 * stdev(values) / 2**0.5  # Student's t of one degree of freedom
    own = [item.estimate for item in table.groups["search-cma"]]
    above = math.hypot(spread, fmean(item.high for item in own) - score.value)
    below = math.hypot(spread, score.value - fmean(item.low for item in own))
    assert math.isclose(score.high, min(1.0, score.value + above), rel_tol=1e-3)
    assert math.isclose(score.low, max(0.0, score.value - below), rel_tol=1e-3)
    heads, rows = table.rows()
    row = dict(zip(heads, rows[0], strict=True))
    parents = [item[item.model.str.startswith("zoo:")].value.max() for item in tests]
    assert row["search"] == "search-cma" and row["seeds"] == "2" and row["candidates"] == "6"
    assert row["best parent"] == f"{100 * fmean(parents):.1f}"
    assert table.groups["search-cma"][0].cpu_seconds > 0


def test_searches_are_compared_on_the_same_test_documents(swept):
    _, _, table = swept
    (item,) = table.differences
    assert (item.first, item.second) == ("search-cma", "search-random")
    for seed, found in item.by_seed.items():
        one, other = (table.groups[name][seed] for name in ("search-cma", "search-random"))
        expected = compare(one.view.ranking.objectives, one.test, other.test)
        assert found.difference == expected.difference
    mean = fmean(found.difference.value for found in item.by_seed.values())
    assert item.mean.value == mean and len(item.by_seed) == 2


def test_the_same_command_again_runs_nothing_and_prints_the_same(swept):
    file, runs, table = swept
    before = journals(runs)
    done = evomerge("sweep", file, "--seeds", "0..1", "--runs", runs, *SETS, "--json")
    assert journals(runs) == before and "search 1" not in done.stderr
    assert json.loads(done.stdout) == json.loads(json.dumps(table.to_dict()))


def test_more_candidates_and_seeds_go_on_with_what_is_there(swept, tmp_path):
    file = write_search(tmp_path, **BUDGET)
    runs = tmp_path / "runs"
    for options in (["--seeds", "3"], ["--seeds", "3,4", "--candidates", "7"]):
        done = evomerge("sweep", file, "--runs", runs, *options, "--json")
    assert "search 2 of 2" in done.stderr
    found = json.loads(done.stdout)["searches"]
    assert [(item["seed"], item["candidates"], item["state"]) for item in found] == [
        (3, 7, "done"),
        (4, 7, "done"),
    ]
    first = (runs / "search-3" / "journal.jsonl").read_text().splitlines()
    assert sum('"event":"run"' in line.replace(" ", "") for line in first) <= 1


def test_a_sweep_that_is_killed_goes_on_and_finds_the_same(swept):
    file, runs, _ = swept
    again = file.parent / "killed"
    command = ["sweep", file, "--seeds", "0..1", "--runs", again, *SETS]
    journal = again / "search-random-0" / "journal.jsonl"
    with Path(os.devnull).open("w") as nowhere:
        process = start(*command, stdout=nowhere, stderr=nowhere)
    with ended(process):  # by SIGKILL, in the second of four searches
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= 5:
                break
            time.sleep(0.002)
    assert process.returncode == -9 and not (again / "search-cma-1").exists()
    finished = (again / "search-cma-0" / "journal.jsonl").read_bytes()
    evomerge(*command)
    assert (again / "search-cma-0" / "journal.jsonl").read_bytes() == finished
    for name in journals(runs):
        assert events_of(again / name) == events_of(runs / name)


def test_several_processes_do_one_sweep_together(swept, tmp_path):
    file, runs, _ = swept
    again = tmp_path / "runs"
    command = ["sweep", file, "--seeds", "0..1", "--runs", again, *SETS]
    with (tmp_path / "said").open("w") as said, Path(os.devnull).open("w") as nowhere:
        processes = [start(*command, stdout=nowhere, stderr=said) for _ in range(2)]
        with ended(processes[0]), ended(processes[1]):
            assert [process.wait(300) for process in processes] == [0, 0]
    for name in journals(runs):
        assert events_of(again / name) == events_of(runs / name)
    lines = (tmp_path / "said").read_text()
    texts = [(again / name / "timings.jsonl").read_text() for name in journals(runs)]
    noted = [[json.loads(line) for line in text.splitlines()] for text in texts]
    scored = [
        [line["candidate"] for line in of_run if line.get("event") == "tell"] for of_run in noted
    ]
    assert [len(numbers) for numbers in scored] == [6] * 4  # nothing was scored twice
    assert "failed" not in lines


def test_a_search_that_another_process_runs_is_left_to_it(swept, tmp_path):
    file, runs, _ = swept
    shutil.copytree(runs / "search-cma-0", tmp_path / "runs" / "search-0")
    journal = tmp_path / "runs" / "search-0" / "journal.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:5]))
    before = journal.read_bytes()
    command = ["sweep", file, "--runs", tmp_path / "runs", "--set", "optimizer.name=cma"]
    with Journal(journal):
        done = evomerge(*command)
    assert "run by other processes: search-0;" in done.stderr and journal.read_bytes() == before
    assert done.stdout.splitlines()[1].split("\t")[:3] == ["search", "0 of 1", "-"]
    evomerge(*command)
    assert events_of(tmp_path / "runs" / "search-0") == events_of(runs / "search-cma-0")


def test_a_search_that_another_process_begins_first_is_left_to_it(swept, tmp_path):
    file, runs, _ = swept
    folder = tmp_path / "runs" / "search-0"
    searches = plan([file], folder.parent, [0], {"optimizer.name": ["cma"]})
    begun = []

    def warn(checked) -> None:  # is called between the check of the folder and its creation
        begun.append(shutil.copytree(runs / "search-cma-0", folder))

    table = run_sweep(searches, NOTHING, with_bar(False, ()), warn)
    assert [item.state for item in table.groups["search"]] == ["done"] and len(begun) == 1
    assert events_of(folder) == events_of(runs / "search-cma-0")


def test_a_search_that_fails_is_a_row_and_the_others_go_on(tmp_path):
    good = write_search(tmp_path, **BUDGET)
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(SMALL | BUDGET | {"parents": ["zoo:language", "./nowhere"]}))
    page = tmp_path / "page.html"
    command = ["sweep", bad, good, "--runs", tmp_path / "runs", "--html", page]
    done = evomerge(*command, "--json", code=1)
    failed, found = json.loads(done.stdout)["searches"]
    assert failed["state"] == "failed" and "'./nowhere'" in failed["error"]
    assert found["state"] == "done" and found["test"] is not None
    assert "1 of 2 searches failed: bad-0" in done.stderr
    rows = [line.split("\t")[:2] for line in evomerge(*command, code=1).stdout.splitlines()]
    assert rows[1:] == [["bad", "0 of 1"], ["search", "1"]]
    assert "./nowhere" in page.read_text()


def test_a_folder_that_holds_another_search_is_a_failure_and_stays(swept, tmp_path):
    _, runs, _ = swept
    before = journals(runs)
    file = write_search(tmp_path, **BUDGET, dtype="bfloat16")
    values = {"optimizer.name": ["cma", "random"]}
    table = api.sweep([file], runs, values=values, progress=False)
    assert [item.state for item in table.failed] == ["failed"] * 2 and journals(runs) == before
    assert all("`dtype`" in item.error for item in table.failed)


def test_the_page_has_the_table_the_score_over_cost_and_the_tests(swept, tmp_path):
    _, _, table = swept
    write_sweep(table, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<svg") == 1 and "search-cma - search-random" in text
    across, up = best_over_cost(table.groups["search-cma"][0])
    told = table.groups["search-cma"][0].view.history.told
    assert across == sorted(across) and up == sorted(up) and len(up) == len(told)
    assert up[-1] == max(item.fitness for item in told)


def test_changes_that_belong_together_are_a_variant(tmp_path):
    file = write_search(tmp_path)
    variants = {"search": [], "random, 9": ["optimizer.name=random", "budget.candidates=9"]}
    plain, other = plan({"one": file}, tmp_path, [5], {}, variants)
    assert (plain.group, other.group) == ("one-search", "one-random-9")
    assert plain.data["optimizer"] == SMALL["optimizer"] and other.data["seed"] == 5
    assert other.data["budget"] == {"candidates": 9} and other.folder == tmp_path / "one-random-9-5"


def test_values_of_one_key_are_divided_at_commas_outside_of_brackets():
    found = parse_values(["a.b=x, y", "c=[1, 2],[3]", "d='u,v'", "e={k: 1, l: 2}"])
    assert found == {
        "a.b": ["x", "y"],
        "c": ["[1, 2]", "[3]"],
        "d": ["'u,v'"],
        "e": ["{k: 1, l: 2}"],
    }
    assert parse_seeds("0..3,7, 5") == [0, 1, 2, 3, 7, 5]


def test_a_run_that_cannot_be_read_has_no_scores(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "journal.jsonl").write_text("nonsense\n")
    for folder in (tmp_path / "run", tmp_path / "none"):
        item = Ran("x", 0, folder)
        assert item.view is None and item.state == "open" and item.estimate is None


def test_bad_input_gets_one_sentence_before_anything_runs(tmp_path):
    file = write_search(tmp_path)
    (tmp_path / "other").mkdir()
    twin = write_search(tmp_path / "other")
    cases = [
        (lambda: parse_seeds("4..0"), ["--seeds", "0..4"]),
        (lambda: parse_seeds("x"), ["--seeds", "'x'"]),
        (lambda: parse_values(["optimizer.name"]), ["--set", "key.path=value"]),
        (lambda: parse_values(["a=1", "a=2"]), ["--set a", "twice"]),
        (lambda: plan([file, twin], tmp_path, [0], {}), ["same name", "rename"]),
        (lambda: plan([file], tmp_path, [], {}), ["one seed"]),
        (lambda: plan("a.yaml", tmp_path, [0], {}), ["files", "as ['a.yaml']"]),
        (lambda: plan([file], tmp_path, [0, 0], {}), ["search-0", "once"]),
        (lambda: plan([file], tmp_path, range(1001), {}), ["1,001 searches"]),
        (lambda: plan([file], tmp_path, [0], {"optimizer.nmae": ["cma"]}), ["nmae"]),
        (lambda: plan([file], tmp_path, [0], {"optimizer.name": ["cma", "cam"]}), ["'cma'?"]),
        (lambda: plan([file], tmp_path, [0], {"space.method": ["tiess"]}), ["'ties'?"]),
        (lambda: plan([file], tmp_path, [0], {"seed": ["1", "2"]}), ["`seed`", "--seeds"]),
        (lambda: plan([file], tmp_path, [0], {}, {"one": ["seed=1"]}), ["`seed`", "--seeds"]),
        (lambda: plan([file], file, [0], {}), ["--runs", "not a folder"]),
        (lambda: plan([file], tmp_path, [0], {"space.method": ["tiess"]}), ["'tiess'", "'ties'?"]),
        (lambda: plan([tmp_path / "no.yaml"], tmp_path, [0], {}), ["no.yaml", "evomerge init"]),
    ]
    for call, words in cases:
        with pytest.raises(InputError) as caught:
            call()
        message = str(caught.value)
        assert all(word in message for word in words) and "\n" not in message, message
    runs = tmp_path / "runs"
    for options in (["--seeds", "0,0"], ["--set", "space.methd=ties,linear"]):
        assert "evomerge:" in evomerge("sweep", file, "--runs", runs, *options, code=2).stderr
    assert not runs.exists()
