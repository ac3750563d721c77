"""A search file that was edited together with its digests is noticed by the journal."""

import json

import pytest
import yaml
from search_run import SMALL

from evomerge.errors import RunFolderError
from evomerge.run.folder import CONFIG, MANIFEST, RunFolder, with_digests
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
    content = yaml.safe_load((run.path / CONFIG).read_text()) | {"frozen": {}} | changes
    content = with_digests(content)
    (run.path / MANIFEST).write_text(json.dumps(content.pop("frozen")))
    (run.path / CONFIG).write_text(yaml.safe_dump(content))


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


def test_a_run_that_has_all_in_its_search_file_goes_on(tmp_path):
    """As the first runs have it, in the section `frozen`."""
    run = RunFolder.create(tmp_path / "run", SMALL | {"frozen": {"genes": ["a"]}})
    before, content = begin_session(run), run.config()
    (run.path / MANIFEST).unlink()
    (run.path / CONFIG).write_text(yaml.safe_dump(content))
    assert run.config() == content and begin_session(run) == before
    content["frozen"]["genes"] = ["b"]
    (run.path / CONFIG).write_text(yaml.safe_dump(content))
    with pytest.raises(RunFolderError, match=r"search\.yaml was changed .*\(in `frozen`\)"):
        run.config()
