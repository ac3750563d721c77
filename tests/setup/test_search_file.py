"""A run keeps the search file as it was written, and its journal notices another manifest."""

import json

import pytest
import yaml
from search_run import SMALL, write_search

from evomerge.config.schema import parse
from evomerge.errors import RunFolderError
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.journal import Journal
from evomerge.run.logbook import Logbook
from evomerge.setup.runs import begin, folder_of, load_any, prepare
from evomerge.setup.search import check_search_file

TEXT = json.dumps(SMALL)


def begin_session(run):
    """Compare the manifest as a session does, and return the journal's events."""
    with Journal(run.journal_path) as journal:
        check_search_file(run, Logbook(run, journal, []))
    return run.events()


def again(run, name, manifest):
    """Return another run with the journal of this one."""
    other = RunFolder.create(run.path.with_name(name), TEXT, manifest)
    other.journal_path.write_bytes(run.journal_path.read_bytes())
    return other


def test_a_manifest_that_was_edited_with_its_digest_is_refused(tmp_path):
    manifest = {"config": SMALL, "folder": "/a"}
    run = RunFolder.create(tmp_path / "run", TEXT, manifest)
    before = begin_session(run)
    assert [event["event"] for event in before] == ["header", "search"]
    assert begin_session(run) == before
    elsewhere = SMALL | {"executor": {"kind": "processes", "workers": 4}}
    assert begin_session(again(run, "b", {"config": elsewhere, "folder": "/b"})) == before
    for name, change in (
        ("c", {"config": SMALL | {"seed": 2}}),
        ("d", {"lower_is_better": ["zoo_l2_maths/exact_match"]}),
    ):
        other = again(run, name, manifest | change)
        other.manifest()  # its digest fits
        with pytest.raises(RunFolderError, match="is not the one that this run's journal was"):
            begin_session(other)


def test_the_file_is_kept_as_it_is_and_the_manifest_has_what_it_means(tmp_path):
    (tmp_path / "tasks").mkdir()
    include = ["zoo:tasks", "tasks"]
    file = write_search(tmp_path, evaluation=SMALL["evaluation"] | {"include": include})
    file.write_text("# why this search\n" + file.read_text())
    wrote = load_any(file)
    run = begin(tmp_path / "run", prepare(wrote, folder_of(file)), wrote, file)
    assert (run.path / CONFIG).read_text() == file.read_text()
    config = run.search_file()
    assert config.frozen.folder == str(tmp_path)
    assert config.evaluation.include == ["zoo:tasks", str(tmp_path / "tasks")]
    assert (wrote.executor.order, config.executor.order) == ("auto", "generation")

    repeated = load_any(run.path / CONFIG)
    assert repeated == config
    assert folder_of(run.path / CONFIG) == folder_of(file) == tmp_path
    changed = wrote.model_copy(update={"seed": 7})
    other = begin(tmp_path / "other", prepare(changed, tmp_path), changed, file)
    assert yaml.safe_load((other.path / CONFIG).read_text())["seed"] == 7
    assert parse(other.written(), "search.yaml") == changed
