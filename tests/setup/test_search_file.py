"""A search file that was edited together with the digests in it is noticed by the journal."""

import pytest
import yaml
from search_run import SMALL

from evomerge.errors import RunFolderError
from evomerge.run.folder import CONFIG, RunFolder, with_digests
from evomerge.run.journal import Journal
from evomerge.run.logbook import Logbook
from evomerge.setup.search import check_search_file


def begin_session(run):
    """Compare the search file as a session does, and return the journal's events."""
    with Journal(run.journal_path) as journal:
        check_search_file(run, Logbook(run, journal, []))
    return run.events()


def edit(run, **changes):
    """Change sections of the search file, and make its digests fit."""
    content = yaml.safe_load((run.path / CONFIG).read_text())
    content["frozen"].pop("digests")
    (run.path / CONFIG).write_text(yaml.safe_dump(with_digests({**content, **changes})))


def test_a_search_file_that_was_edited_with_its_digests_is_refused(tmp_path):
    run = RunFolder.create(tmp_path / "run", SMALL)
    before = begin_session(run)
    assert [event["event"] for event in before] == ["header", "search"]
    assert begin_session(run) == before
    edit(run, executor={"kind": "processes", "workers": 4})  # may change while a search goes on
    assert begin_session(run) == before
    edit(run, seed=2)
    run.config()  # its digests fit
    with pytest.raises(RunFolderError, match="is not the search file that this run's journal was"):
        begin_session(run)
    edit(run, seed=SMALL["seed"], frozen={"lower_is_better": ["zoo_l2_maths/exact_match"]})
    with pytest.raises(RunFolderError, match="is not the search file"):
        begin_session(run)


def test_a_search_file_without_digests_is_compared_too(tmp_path):
    run = RunFolder.create(tmp_path / "run", SMALL)
    begin_session(run)
    content = yaml.safe_load((run.path / CONFIG).read_text())
    content["frozen"].pop("digests")
    (run.path / CONFIG).write_text(yaml.safe_dump(content))
    assert begin_session(run)
    content["budget"] = {"candidates": 23}
    (run.path / CONFIG).write_text(yaml.safe_dump(content))
    with pytest.raises(RunFolderError, match="is not the search file"):
        begin_session(run)
