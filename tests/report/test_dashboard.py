"""The dashboard shows what `evomerge results` says, while a run goes on, and changes nothing."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import datetime
from urllib.error import HTTPError

import optuna
import optuna_dashboard
import pytest
from run_folders import FAILED, KEY, STATES, append, asked, lines_of, scores, told, write_run
from search_run import SMALL, command, ended, environment, evomerge

from evomerge.__main__ import run as call
from evomerge.config.schema import parse
from evomerge.report import dashboard
from evomerge.report.dashboard import add_study, named_runs
from evomerge.scores import Expected, Scores
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare

pytestmark = pytest.mark.thorough

RANGES = [
    {"genes": ["weight"], "kind": "real", "low": 0.0, "high": 2.0},
    {"genes": ["repeats"], "kind": "integer", "low": 1.0, "high": 4.0},
    {"genes": ["method"], "kind": "choice", "low": 0.0, "high": 1.0, "choices": ["ties", "ram"]},
    {"genes": ["on", "flag"], "kind": "binary", "low": 0.0, "high": 1.0},
]
FROZEN = {"genes": ["on", "weight", "repeats", "method", "flag"], "gene_ranges": RANGES}
GENOME = [1.0, 0.25, 3.0, 1.0, 0.0]
PARAMETERS = {"on": "1", "weight": "0.25", "repeats": "3", "method": "ram", "flag": "0"}
SESSION = 1_700_000_000.0

ESTIMATE = Scores(
    {"zoo_l2_maths": tuple(range(8))},
    {KEY: (1.0,) * 4 + (0.0,) * 4},
    {KEY: 0.5},
    expected={KEY: Expected(0.375, 0.1)},
)
BEGINNING = [
    *(asked(0, "zoo:language"), told(0, scores(6))),
    *(asked(1, "uniform") | {"origin": {"genome": GENOME}}, told(1, scores(3))),
    *(asked(2, genome=[0.0, 1.5, 1.0, 0.0, 1.0]), told(2, FAILED)),
    *(asked(3, genome=GENOME), told(3, ESTIMATE) | {"values": [0.375]}),
]
END = [
    *(asked(4, genome=[0.0, 2.0, 4.0, 0.0, 1.0]), told(4, scores(21))),
    told(3, scores(9)) | {"event": "complete"},
    told(4, scores(20)) | {"event": "score", "split": "validation"},
    told(4, scores(18)) | {"event": "score", "split": "test"},
    {"event": "winner", "candidate": 4},
]


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def served(*directories):
    """Serve run folders with the real command; yield a function that returns JSON of a path."""
    process = subprocess.Popen(
        command("dashboard", *directories, "--port", "0"),
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    with ended(process):
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+/", line)
        assert found is not None, line + process.stderr.read()

        def get(path, method="GET"):
            request = urllib.request.Request(found[0] + path, method=method)
            if method != "GET":
                request.data, request.headers["Content-Type"] = b"{}", "application/json"
            with urllib.request.urlopen(request, timeout=250) as answer:
                return json.load(answer)

        yield get
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=250)
    assert (process.returncode, rest) == (130, "evomerge: interrupted\n")


def attributes(item):
    return {entry["key"]: entry["value"] for entry in item["user_attrs"]}


def check(detail, results):
    """Compare a study of the dashboard with what `evomerge results --json` prints."""
    assert len(detail["trials"]) == len(results["candidates"])
    states = {"open": "Running", "scored": "Complete", "failed": "Fail"}
    for trial, row in zip(detail["trials"], results["candidates"], strict=True):
        assert trial["number"] == row.pop("candidate")
        assert trial["state"] == states[row["status"]]
        fitness = row.pop("fitness")
        assert trial.get("values") == (None if fitness is None else [fitness])
        values = {f"gene {p['name']}": p["param_internal_value"] for p in trial["params"]}
        genes = {name: row.pop(name) for name in list(row) if name.startswith("gene ")}
        if row["origin"] == "optimizer":
            assert values == {name: value for name, value in genes.items() if value is not None}
        else:  # Optuna gets what the optimizer is told of a baseline
            assert set(genes.values()) <= {None}
        shown = attributes(trial)
        assert shown.pop("estimated") == str(row["error"] is not None)
        columns = {name: value for name, value in row.items() if not name.startswith("seconds ")}
        assert shown == {name: str(value) for name, value in columns.items() if value is not None}


def until(condition, seconds=250):
    """Wait for a condition: optuna-dashboard shows trials that are up to two seconds old."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


def test_a_running_search_is_shown_as_results_shows_it(tmp_path, capsys):
    run = write_run(tmp_path / "mine", BEGINNING, b'5d1e9f00 {"event":"ask","cand', frozen=FROZEN)
    run.timings.note({"session": SESSION, "elapsed": 0.0})
    times = {"event": "tell", "candidate": 0, "seconds": {"merge": 1.5, "evaluate": 8.0}}
    run.timings.note({"session": SESSION, "elapsed": 10.0, **times})
    ranges = [{"genes": ["a", "b"], "kind": "real", "low": 0.0, "high": 2.0}]
    named = {"genes": ["a", "b"], "gene_ranges": ranges}
    other = write_run(tmp_path / "b" / "mine", *STATES["being written"], frozen=named)

    def results(folder):
        assert call(["results", str(folder), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    with served(run.path, other.path) as get:
        studies = get("api/studies")["study_summaries"]
        assert [item["directions"] for item in studies] == [["maximize"]] * 2
        names = [item["study_name"] for item in studies]
        assert names == [f"{tmp_path.name}/mine", "b/mine"]
        detail = get("api/studies/0?after=0")
        check(detail, results(run.path))
        check(get("api/studies/1?after=0"), results(other.path))
        by_name = {item["name"]: item for item in detail["trials"][3]["params"]}
        assert {n: p["param_external_value"] for n, p in by_name.items()} == PARAMETERS
        kinds = {name: item["distribution"]["type"] for name, item in by_name.items()}
        assert kinds["weight"] == "FloatDistribution"
        assert kinds["method"] == "CategoricalDistribution"
        assert {kinds[name] for name in ("on", "flag", "repeats")} == {"IntDistribution"}
        assert by_name["repeats"]["distribution"]["high"] == 4
        assert [len(trial["params"]) for trial in detail["trials"]] == [0, 5, 5, 5]
        first = detail["trials"][0]
        assert datetime.fromisoformat(first["datetime_complete"]).timestamp() == SESSION + 10
        assert datetime.fromisoformat(first["datetime_start"]).timestamp() == SESSION + 0.5
        assert attributes(detail["trials"][2])["failure"] == "merge: no <finite> weights"

        # The writer removes the torn line, goes on, and one more candidate is asked for.
        whole = run.journal_path.read_bytes()
        run.journal_path.write_bytes(whole[: whole.rindex(b"\n") + 1])
        whole = run.journal_path.read_bytes()
        line = lines_of(END[:2], whole)[1]
        append(run, END[:1], line[:40])
        detail = until(lambda: (d := get("api/studies/0?after=0"))["trials"][4:] and d)
        assert detail["trials"][4]["state"] == "Running"
        check(detail, results(run.path))
        with run.journal_path.open("ab") as file:
            file.write(line[40:])
        until(lambda: get("api/studies/0?after=4")["trials"][0]["state"] == "Complete")
        check(get("api/studies/0?after=0"), results(run.path))

        append(run, END[2:])
        until(lambda: attributes(get("api/studies/0?after=4")["trials"][0])["winner"] == "True")
        detail = get("api/studies/0?after=0")
        assert attributes(detail) == {"winner": "4"}
        assert detail["trials"][3]["values"] == [9 / 24]
        check(detail, results(run.path))


def test_no_request_changes_a_run(tmp_path):
    run = write_run(tmp_path / "run", [*BEGINNING, *END], frozen=FROZEN)
    app = optuna_dashboard.wsgi(optuna.storages.InMemoryStorage())
    routes = {(route.method, route.rule) for route in app.routes}
    writing = [(method, rule) for method, rule in routes if method not in ("GET", "HEAD")]
    assert ("DELETE", "/api/studies/<study_id:int>") in writing
    before = content(run.path)
    with served(run.path) as get:
        for method, rule in writing:
            with pytest.raises(HTTPError) as caught:
                get(re.sub("<[^>]*>", "0", rule.lstrip("/")), method)
            assert caught.value.code == 405
            assert "cannot change" in json.load(caught.value)["reason"]
        assert len(get("api/studies/0?after=0")["trials"]) == 5
        assert len(get("api/studies")["study_summaries"]) == 1
    assert content(run.path) == before


def shown(run):
    """The study of a run."""
    storage = optuna.storages.InMemoryStorage()
    add_study(storage, "run", run)
    return optuna.load_study(study_name="run", storage=storage)


def test_what_is_new_in_the_journal_is_in_the_next_study(tmp_path):
    run = write_run(tmp_path / "run", BEGINNING[:-1], frozen=FROZEN)
    states = [trial.state.name for trial in shown(run).trials]
    assert states == ["COMPLETE", "COMPLETE", "FAIL", "RUNNING"]
    append(run, [BEGINNING[-1], *END[:2]])
    study = shown(run)
    assert study.best_trial.number == 4
    assert study.best_params == {"on": 0, "weight": 2.0, "repeats": 4, "method": "ties", "flag": 1}
    assert study.trials[3].user_attrs["estimated"] is True


def test_of_very_many_candidates_every_nth_is_shown_and_those_that_stand_out(tmp_path, monkeypatch):
    right = [6, 3, 1, 1, 7, 2, 2, 2, 5, 4, 8, 1, 1, 1]
    labels = {0: "zoo:language"}
    events = [
        event
        for number, count in enumerate(right)
        for event in (asked(number, labels.get(number)), told(number, scores(count)))
    ]
    events += [told(9, scores(20)) | {"event": "score", "split": "validation"}, asked(14)]
    run = write_run(tmp_path / "run", events, frozen=FROZEN)
    assert len(shown(run).trials) == 15 and "candidates" not in shown(run).user_attrs
    monkeypatch.setattr(dashboard, "MOST", 3)
    study = shown(run)
    # Every fifth; the best ones so far (4, 10), a finalist (9), the one that is being scored (14).
    assert [trial.user_attrs["candidate"] for trial in study.trials] == [0, 4, 5, 9, 10, 14]
    assert study.user_attrs == {"candidates": "6 of 15 are shown"}


def test_ranges_come_from_the_frozen_search_file(tmp_path):
    config = parse(SMALL | {"space": SMALL["space"] | {"method": ["ties", "ram"]}}, "search.yaml")
    problem = prepare(config, tmp_path)
    genome = tuple(gene.start for gene in problem.space.genes)
    run = write_run(tmp_path / "run", [asked(0, genome=genome)], **freeze(problem))
    (trial,) = shown(run).trials
    assert list(trial.params) == [gene.name for gene in problem.space.genes]
    for gene in problem.space.genes:
        found = trial.distributions[gene.name]
        if gene.kind == "choice":
            assert found == optuna.distributions.CategoricalDistribution(("ties", "ram"))
        else:
            assert gene.kind == "real"
            assert found == optuna.distributions.FloatDistribution(gene.low, gene.high)


def test_a_search_in_stages_is_a_study_for_each_stage(tmp_path):
    for number in (1, 2):
        write_run(tmp_path / f"stage-{number}", BEGINNING[: 2 * number], frozen=FROZEN)
    (tmp_path / "stages.yaml").write_text("")
    runs = named_runs([tmp_path, tmp_path / "stage-2"])
    assert list(runs) == ["stage-1", "stage-2"]
    assert [len(shown(run).trials) for run in runs.values()] == [1, 2]


def test_what_cannot_be_served_is_one_sentence(tmp_path):
    run = write_run(tmp_path / "run", BEGINNING, frozen=FROZEN)
    missing = evomerge("dashboard", run.path, tmp_path / "none", code=2).stderr
    assert missing.startswith(f"evomerge: {tmp_path / 'none'} does not exist")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        used = evomerge("dashboard", run.path, "--port", port, code=2).stderr
    assert used.startswith(f"evomerge: --port is {port}, which cannot be used")
    for name in ("optuna", "optuna_dashboard"):
        code = (
            f"import sys; sys.modules[{name!r}] = None\nfrom evomerge.__main__ import main\nmain()"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, "dashboard", str(run.path)],
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert done.returncode == 2
        assert "pip install 'evomerge[dashboard]'" in done.stderr
        assert missing.count("\n") == used.count("\n") == done.stderr.count("\n") == 1
