"""A journal can be read after a cut at any byte; any other damage is an error."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.errors import RunFolderError
from evomerge.run.journal import FORMAT, Journal, Reader, encode, read

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
events = st.lists(
    st.dictionaries(st.text(min_size=1), scalars, min_size=1).map(lambda d: {"event": "x"} | d),
    max_size=6,
)


@settings(max_examples=60, deadline=None)
@given(events=events, data=st.data())
def test_a_journal_cut_at_any_byte_opens_and_continues(tmp_path_factory, events, data):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    with Journal(path) as journal:
        for event in events:
            journal.append(event)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    complete = whole[:cut].count(b"\n")
    with Journal(path) as journal:
        kept = list(journal.events)
        journal.append({"event": "after"})
    header = [{"event": "header", "format": FORMAT}]
    assert kept == (header + events)[: max(complete, 1)]
    assert read(path) == [*kept, {"event": "after"}]


@settings(max_examples=60, deadline=None)
@given(events=events, data=st.data())
def test_a_reader_gives_each_event_once_wherever_the_writer_is(tmp_path_factory, events, data):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    header = [{"event": "header", "format": FORMAT}]
    whole = b"".join(map(encode, header + events))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    path.touch()
    reader, found = Reader(path), []
    for cut in [*cuts, len(whole)]:
        path.write_bytes(whole[:cut])
        found += reader.new_events()
        assert len(found) == whole[:cut].count(b"\n")
    assert found == header + events


def test_a_reader_counts_the_lines_of_the_whole_file(tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(encode({"event": "header", "format": FORMAT}) + encode({"event": "a"}))
    reader = Reader(path)
    assert len(reader.new_events()) == 2
    with path.open("ab") as file:
        file.write(encode({"event": "b"}) + b"no event\n" + encode({"event": "c"}))
    with pytest.raises(RunFolderError, match="line 4 does not match"):
        reader.new_events()


@settings(max_examples=60, deadline=None)
@given(events=events, data=st.data())
def test_a_flipped_byte_is_never_read_as_an_event(tmp_path_factory, events, data):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    with Journal(path) as journal:
        for event in events:
            journal.append(event)
    whole = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(whole))
    try:
        found = read(path)
    except RunFolderError:
        return
    original = [{"event": "header", "format": FORMAT}, *events]
    assert found == original[: len(found)]


def test_damage_in_the_middle_is_reported_with_its_line(tmp_path):
    path = tmp_path / "journal.jsonl"
    with Journal(path) as journal:
        journal.append({"event": "a"})
        journal.append({"event": "b"})
    path.write_bytes(path.read_bytes().replace(b'"a"', b'"c"'))
    with pytest.raises(RunFolderError, match="line 2"):
        read(path)


@pytest.mark.parametrize("format", [FORMAT - 1, FORMAT + 1, 99])
def test_another_format_is_refused(tmp_path, format):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(encode({"event": "header", "format": format}))
    with pytest.raises(RunFolderError, match=f"has journal format {format}; .* reads format"):
        Journal(path)


def test_a_line_is_checksum_and_json(tmp_path):
    line = encode({"event": "ask", "genome": [0.5]})
    checksum, _, text = line.partition(b" ")
    assert len(checksum) == 8
    assert json.loads(text) == {"event": "ask", "genome": [0.5]}
