"""A candidate that ends its process is tried three times, then it counts as failed."""

import signal

import pytest
from judging import write_judged
from search_run import evomerge, evomerge_json

from evomerge.run.folder import RunFolder

pytestmark = pytest.mark.thorough

SOURCE = '''
import os
import signal

def judge(model, tokenizer, documents):
    """Mean size of the first weights; for one model, the process ends or an error is raised."""
    spread = repr(float(next(model.parameters()).detach().abs().mean()))
    if len(documents) == 1:  # before the search
        return [0.0]
    with open(os.environ["SPREADS"], "a") as file:
        print(spread, file=file)
    if spread == os.environ.get("TARGET"):
        if os.environ["END"] == "raise":
            raise ValueError("cannot be judged")
        elif os.environ["END"] == "abort":
            os.abort()
        os.kill(os.getpid(), signal.SIGKILL)
    return [float(spread)] * len(documents)

judge.documents = 12
'''


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A run in which one candidate failed by an exception, and the score of its model."""
    folder = tmp_path_factory.mktemp("unbroken")
    file = write_judged(folder, SOURCE)
    about = {"PYTHONPATH": str(folder), "SPREADS": str(folder / "spreads")}
    evomerge("search", file, "--run", folder / "first", "--candidates", "6", **about)
    target = (folder / "spreads").read_text().split()[5]
    evomerge("search", file, "--run", folder / "run", **about, TARGET=target, END="raise")
    return folder / "run", target


def test_after_three_killed_processes_the_search_goes_on(unbroken, tmp_path):
    """Two are killed, and one ends itself by `abort`."""
    whole, target = unbroken
    file = write_judged(tmp_path, SOURCE)
    run = tmp_path / "run"
    about = {
        "PYTHONPATH": str(tmp_path),
        "SPREADS": str(tmp_path / "spreads"),
        "TARGET": target,
    }
    evomerge("search", file, "--run", run, code=-signal.SIGKILL, **about, END="kill")
    evomerge("resume", run, code=-signal.SIGABRT, **about, END="abort")
    evomerge("resume", run, code=-signal.SIGKILL, **about, END="kill")
    evomerge("resume", run, **about)
    rows, theirs = (evomerge_json("results", folder)["candidates"] for folder in (run, whole))
    assert rows[5]["failure"] == (
        "lost: 3 processes ended without an error while this candidate was scored."
    )
    assert theirs[5]["failure"].endswith("cannot be judged")
    assert [row | {"failure": None} for row in rows] == [row | {"failure": None} for row in theirs]
    ours, others = RunFolder(run).events(), RunFolder(whole).events()
    assert sum(one != other for one, other in zip(ours, others, strict=True)) == 1
    assert (tmp_path / "spreads").read_text().split().count(target) == 3
