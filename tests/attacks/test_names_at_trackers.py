"""Names from files at the border to trackers.

Each name becomes a text that can be written, and no failure of a tracker ends the search.
"""

import json
import sys

import pytest
from run_folders import asked, scores, told, write_run

from evomerge.report.trackers import tracked
from evomerge.report.words import storable
from evomerge.run.folder import RunFolder
from evomerge.scores import Scores
from evomerge.searching.ranking import ranking_of

pytestmark = pytest.mark.thorough

NAMES = {
    "escape sequences": "\x1b[2J\x1b]0;t\x07",
    "lines": "a\r\nb\u2028c",
    "elements": "<img src=x onerror=alert(1)>",
    "markup": "[/x][bold]",
    "a separator": "a/b.c",
    "another order": "\u202etxt",
    "a long text": "x" * 20_000,
}


def run_with(name: str, folder) -> RunFolder:
    """A finished run whose parents, tasks, metrics and genes have this name and a letter."""
    task, metric = f"{name}t", f"{name}m"
    genes = [f"{name}.weight", f"layers[0:2].{name}"]

    def outcome(right: int) -> Scores:
        found = scores(right)
        (values,), (value,) = found.values.values(), found.aggregates.values()
        key = f"{task}/{metric}"
        return Scores({task: tuple(range(24))}, {key: values}, {key: value})

    events = [
        *(asked(0, f"{name}p"), told(0, outcome(6)), asked(1, f"{name}o"), told(1, outcome(3))),
        *(asked(2, genome=[0.25, 1.5]), told(2, outcome(9))),
        told(2, outcome(9)) | {"event": "score", "split": "test"},
        {"event": "winner", "candidate": 2},
    ]
    return write_run(
        folder,
        events,
        parents=[f"{name}p", f"{name}o"],
        base=f"{name}p",
        objectives=[{"task": task, "metric": metric}],
        frozen={"genes": genes},
    )


class Strict:
    """A tracker that takes only what every one can store, and then fails."""

    name = "a run"

    def init(self, config, name, **options):
        self.check(config, name)
        return self

    def check(self, *values):
        told = json.loads(json.dumps(values, ensure_ascii=False).encode())
        for key in keys_of(told):
            assert key.isprintable() and len(key) <= 501

    def log(self, metrics):
        assert metrics["winner"] == 2
        self.check(metrics)

    def finish(self):
        raise SystemExit("\x1b[2J[/x]")


def keys_of(value):
    if isinstance(value, dict):
        yield from value
    if isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from keys_of(item)


@pytest.mark.parametrize("kind", NAMES)
def test_a_tracker_gets_texts_that_can_be_stored(kind, tmp_path, monkeypatch):
    run = run_with(NAMES[kind], tmp_path / "run")
    monkeypatch.setitem(sys.modules, "trackio", Strict())
    said = []
    ranking = ranking_of(run.search_file())
    with tracked("trackio", run, ranking, said.append):
        pass
    assert said == [
        "logging to trackio: `trackio show --project evomerge` shows the run a run",
        "warning: trackio failed ( [2J[/x]); the search goes on without it.",
    ]


@pytest.mark.parametrize("kind", ["lines", "elements", "a long text"])
def test_trackio_logs_it(kind, tmp_path, monkeypatch):
    pytest.importorskip("trackio")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    run = run_with(NAMES[kind], tmp_path / "run")
    said = []
    with tracked("trackio", run, ranking_of(run.search_file()), said.append):
        pass
    assert len(said) == 1 and said[0].startswith("logging to trackio")


def test_half_a_letter_is_replaced_inside_of_everything():
    """Files with one are refused when they are read; results of objective functions are not."""
    assert storable({"a\ud800": ["b\ud800", {"c": 1.5, "d": None}]}) == {
        "a?": ["b\N{REPLACEMENT CHARACTER}", {"c": 1.5, "d": None}]
    }
