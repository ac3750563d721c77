"""The laws of searches, for one small search of each kind (`searches.yaml`).

Each search is run once and all its laws share the run, also among the processes of a test run.
"""

import fcntl
import os
import random
import re
import shutil
import signal
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import small_models
import yaml
from safetensors.torch import load_file
from search_run import events_of, kill_when, searched
from stock_scores import by_stock

import evomerge
from evomerge.errors import InputError
from evomerge.run.folder import RunFolder
from evomerge.run.history import History

ROOT = Path(__file__).parents[2]
TABLE = yaml.safe_load(Path(__file__).with_name("searches.yaml").read_text())
BASE, SEARCHES = TABLE["base"], TABLE["searches"]


@dataclass(frozen=True)
class Searched:
    """A search that was never interrupted, in this process.

    Attributes:
        folder: has the search file, its models, and the module `sizing` of a function.
        code: whether the search file names code of its own.
    """

    name: str
    folder: Path
    code: bool

    @property
    def is_quick(self) -> bool:
        """Whether it stands for its kind of loop; others differ in models and tasks."""
        return "quick" in SEARCHES[self.name]

    @property
    def file(self) -> Path:
        return self.folder / "search.yaml"

    @property
    def run(self) -> evomerge.Run:
        return evomerge.Run(self.folder / "run")

    @property
    def journal(self) -> bytes:
        return (self.folder / "run" / "journal.jsonl").read_bytes()

    def killed(self, *arguments: Any, run: Path, lines: int) -> None:
        """Run a command, and kill it when the journal has so many lines."""
        about = {"PYTHONPATH": str(self.folder)} if self.code else {}
        code = kill_when(arguments, run / "journal.jsonl", lines, 0.0, **about)
        assert code == -signal.SIGKILL


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if "quick" in keys else pytest.mark.thorough)
        for name, keys in SEARCHES.items()
    ],
)
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Return a search that some process of this test run has run."""
    shelf = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shelf = shelf.parent
    data = {key: value for key, value in (BASE | SEARCHES[request.param]).items() if key != "quick"}
    text = yaml.safe_dump(data)
    made = Searched(
        request.param, shelf / "laws" / request.param.replace(" ", "-"), "sizing" in text
    )
    made.folder.mkdir(parents=True, exist_ok=True)
    if made.code:
        sys.path.append(str(made.folder))
    with (made.folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made.folder / "done").exists():
            for name in sorted(set(re.findall(r"MODELS/([\w-]+)", text))):
                small_models.make(made.folder, name)
            (made.folder / "sizing.py").write_text(small_models.JUDGE)
            text = text.replace("MODELS", str(made.folder))
            made.file.write_text(text.replace("ADAPTERS", str(ROOT / "configs" / "adapters")))
            searched(made.file, made.folder / "run", trust_code=made.code)
            (made.folder / "done").touch()
    return made


def go_on(unbroken: Searched, run: Path, **how: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evomerge.resume(run, progress=False, trust_code=unbroken.code, **how)


def files(run: Path) -> dict[str, bytes]:
    """Return all files of a run that say what was found."""
    found = ["journal.jsonl", "best.yaml", "search.yaml", *run.glob("front/*.yaml")]
    return {Path(name).name: (run / name).read_bytes() for name in found}


def copied(unbroken: Searched, run: Path, journal: bytes) -> Path:
    """Copy the run as it was when its journal was this."""
    shutil.copytree(unbroken.run.folder, run, ignore=shutil.ignore_patterns("best.*", "front"))
    (run / "journal.jsonl").write_bytes(journal)
    return run


OTHER_LOOPS = ("fresh documents and recipes that come again", "gradient of successes")
"""Besides the quick ones; tests/run/test_old_runs.py breaks one of each optimizer and space."""


def marks(name: str) -> tuple[pytest.MarkDecorator, ...]:
    if "quick" in SEARCHES[name]:
        return ()
    return (pytest.mark.thorough if name in OTHER_LOOPS else pytest.mark.long,)


BROKEN = pytest.mark.parametrize(
    "unbroken", [pytest.param(name, marks=marks(name)) for name in SEARCHES], indirect=True
)


@BROKEN
def test_killed_and_resumed_it_was_never_killed(unbroken: Searched, tmp_path: Path) -> None:
    """Killed twice if it is quick; each time costs the start of a process."""
    run, whole = tmp_path / "run", unbroken.journal.count(b"\n")
    first, second = sorted(random.Random(unbroken.name).sample(range(2, whole - 2), 2))
    unbroken.killed("search", unbroken.file, "--run", run, run=run, lines=first)
    with (run / "journal.jsonl").open("ab") as torn:
        torn.write(b'{"event":"tell","cand')
    if unbroken.is_quick:
        unbroken.killed("resume", run, run=run, lines=second)
    go_on(unbroken, run)
    assert files(run) == files(unbroken.run.folder)


@BROKEN
def test_cut_anywhere_it_opens_and_goes_on(unbroken, tmp_path):
    """With two processes if it is quick."""
    whole, drawn = unbroken.journal, random.Random(unbroken.name)
    events = RunFolder(unbroken.run.folder).events()
    run = copied(unbroken, tmp_path / "run", whole)
    for cut in [*drawn.sample(range(len(whole)), 20), drawn.randrange(len(whole) // 4, len(whole))]:
        (run / "journal.jsonl").write_bytes(whole[:cut])
        assert RunFolder(run).events() == events[: whole[:cut].count(b"\n")]
        History(RunFolder(run).events())
    go_on(unbroken, run, **({"kind": "processes", "workers": 2} if unbroken.is_quick else {}))
    assert events_of(run) == events_of(unbroken.run.folder)
    assert {**files(run), "journal.jsonl": whole} == files(unbroken.run.folder)


def test_what_has_ended_scores_nothing_again(unbroken: Searched) -> None:
    before = files(unbroken.run.folder)
    go_on(unbroken, unbroken.run.folder)
    assert files(unbroken.run.folder) == before


def test_the_export_has_the_recorded_scores_also_in_the_stock_tool(unbroken, tmp_path):
    run = unbroken.run
    merges = [item for item in run.history.candidates if item.label is None and item.values]
    best = max((item for item in merges if not item.is_estimate), key=lambda item: item.values)
    split = "test" if best.scores("test") else "search"
    recorded = best.scores(split)
    out = run.export(tmp_path / "model", best.number)
    again = evomerge.evaluate(out, unbroken.file, split, trust_code=unbroken.code)
    assert again and {key: item.value for key, item in again.items()} == {
        key: recorded.aggregates[key] for key in again
    }
    stock = by_stock(yaml.safe_load(unbroken.file.read_text()), run.config.compute, out, recorded)
    for key, value in stock.items():
        assert recorded.aggregates[key] == pytest.approx(value, abs=1e-6), key
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evomerge.merge(out / "evomerge_recipe.yaml", tmp_path / "again")
    for file in out.glob("*.safetensors"):
        ours, theirs = load_file(file), load_file(tmp_path / "again" / file.name)
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in ours)


def test_the_run_is_text_and_names_code_that_runs_only_if_allowed(unbroken, tmp_path, monkeypatch):
    for file in unbroken.run.folder.rglob("*"):
        assert file.is_dir() or file.read_text() or file.stat().st_size == 0
    run = copied(unbroken, tmp_path / "run", unbroken.journal[: len(unbroken.journal) // 2])
    if unbroken.code:
        monkeypatch.delitem(sys.modules, "sizing", raising=False)  # if this process imported it
        with pytest.raises(InputError, match="--trust-code"):
            evomerge.resume(run, progress=False)
