"""A journal can be read after a cut at any byte; any other change of it is refused by its line."""

import hashlib
import json
import shutil
from contextlib import suppress

import pandas
import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from run_folders import lines_of

from evomerge.errors import RunFolderError, SearchError
from evomerge.run.journal import FORMAT, HEADER, Journal, read

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
names = st.text(min_size=1).filter(lambda name: name not in ("n", "check"))
events = st.lists(
    st.dictionaries(names, scalars, min_size=1).map(lambda d: {"event": "x"} | d),
    max_size=6,
)
FEW = settings(max_examples=draws(60), deadline=None)


def journal_of(folder, events):
    path = folder / "journal.jsonl"
    path.write_bytes(*lines_of([HEADER]))
    with Journal(path) as journal:
        for event in events:
            journal.append(event)
    return path


def refusal(path):
    """Return why a journal is refused; check that reading and writing refuse it alike."""
    before = path.read_bytes()
    with pytest.raises(RunFolderError) as reading:
        read(path)
    with pytest.raises(RunFolderError) as writing:
        Journal(path)
    assert str(reading.value) == str(writing.value)
    assert path.read_bytes() == before
    return str(reading.value)


def refused(line):
    """Return the words about a line that is not the next one of its journal."""
    return f"is damaged: line {line} " if line > 1 else "is no journal of format"


@FEW
@given(events=events, data=st.data())
def test_a_journal_cut_at_any_byte_opens_and_continues(tmp_path_factory, events, data):
    path = journal_of(tmp_path_factory.mktemp("journal"), events)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    zeros = data.draw(st.sampled_from([b"", b"\0" * 30]))  # what a power cut may leave
    path.write_bytes(whole[:cut] + zeros)
    complete = whole[:cut].count(b"\n")
    assert read(path) == [HEADER, *events][:complete]
    with Journal(path) as journal:
        kept = list(journal.events)
        journal.append({"event": "later"})
    assert kept == [HEADER, *events][: max(complete, 1)]
    assert read(path) == [*kept, {"event": "later"}]
    assert path.read_bytes().startswith(b"".join(whole.splitlines(keepends=True)[:complete]))


@FEW
@given(events=events, data=st.data())
def test_a_flipped_byte_is_never_read_as_an_event(tmp_path_factory, events, data):
    path = journal_of(tmp_path_factory.mktemp("journal"), events)
    whole = bytearray(path.read_bytes())
    position = data.draw(st.integers(0, len(whole) - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(whole))
    if position == len(whole) - 1:  # the newline of the last line, which is cut off then
        with suppress(RunFolderError):
            assert read(path) == [HEADER, *events][:-1]
    else:
        line = whole[:position].count(b"\n") + 1
        assert refused(line) in refusal(path)


@settings(max_examples=draws(150), deadline=None)
@given(
    events=st.lists(st.sampled_from([{"event": "x"}, {"event": "y", "a": 1}]), max_size=5),
    data=st.data(),
)
def test_a_line_that_is_doubled_missing_swapped_or_foreign_is_refused(
    tmp_path_factory, events, data
):
    """Equal events, too: only number and chain tell them apart."""
    folder = tmp_path_factory.mktemp("journal")
    path = journal_of(folder, [*events, {"event": "x"}])
    other = lines_of([HEADER, {"event": "z"}, *events, {"event": "x"}])
    lines = path.read_bytes().splitlines(keepends=True)
    at = data.draw(st.integers(0, len(lines) - 1))
    to = data.draw(st.integers(0, len(lines) - 1).filter(lambda number: number != at))
    match data.draw(st.sampled_from(["double", "drop", "swap", "move", "foreign", "insert"])):
        case "double":
            lines.insert(to, lines[at])
        case "drop" if at < len(lines) - 1:  # without its last line it is an earlier journal
            del lines[at]
        case "swap":
            lines[at], lines[to] = lines[to], lines[at]
        case "move":
            lines.insert(to, lines.pop(at))
        case "foreign" if at > 1:  # their second line can follow our header
            lines[at] = other[at]
        case _:
            lines.insert(at, data.draw(st.sampled_from([b"\n", b"x\n", b"\0\n", other[-1]])))
    path.write_bytes(b"".join(lines))
    said = refusal(path)
    assert " is damaged: line " in said or "is no journal of format" in said


def of_format(number):
    return lines_of([{"event": "header", "format": number}])[0]


@pytest.mark.parametrize(
    "change, line",
    {
        "Windows line ends": (lambda b: b.replace(b"\n", b"\r\n"), 1),
        "UTF-16": (lambda b: b.decode().encode("utf-16"), 1),
        "byte order mark": (lambda b: b"\xef\xbb\xbf" + b, 1),
        "foreign file": (lambda b: b"id,score\n1,0.5\n", 1),
        "zeros": (lambda b: bytes(len(b)) + b"\n", 1),
        "no header": (lambda b: b.partition(b"\n")[2], 1),
        "two bad last lines": (lambda b: b + b"0\n1\n", 4),
        "a later format": (lambda b: of_format(FORMAT + 1), 1),
    }.values(),
)
def test_a_file_that_is_no_torn_journal_is_refused_and_left_as_it_is(tmp_path, change, line):
    path = journal_of(tmp_path, [{"event": "x"}, {"event": "y"}])
    path.write_bytes(change(path.read_bytes()))
    said = refusal(path)
    assert refused(line) in said and len(said) < 1000
    if line == 1:
        assert f"no journal of format {FORMAT}; use the version of evomerge that wrote it" in said


def test_each_line_is_json_with_its_number_and_a_check_of_all_until_then(tmp_path):
    lines = lines_of([HEADER, {"event": "ask", "genome": [0.5]}])
    before = ""
    for number, line in enumerate(lines, start=1):
        found = json.loads(line)
        assert (next(iter(found)), found["n"]) == ("n", number)
        text = before + line.decode().rpartition(',"check":')[0]
        before = hashlib.sha256(text.encode()).hexdigest()[:16]
        assert found["check"] == before
    assert list(found) == ["n", "event", "genome", "check"]


def test_any_reader_of_json_lines_reads_a_journal(tmp_path):
    path = journal_of(tmp_path, [{"event": "ask", "text": "\u2028 }\r"}, {"event": "tell"}])
    found = pandas.read_json(path, lines=True)
    assert found.event.tolist() == ["header", "ask", "tell"] and found.n.tolist() == [1, 2, 3]
    assert found.text[1] == "\u2028 }\r"


def test_an_emptied_journal_is_not_one_of_a_search_that_has_not_begun(tmp_path):
    path = journal_of(tmp_path, [{"event": "x"}])
    (tmp_path / "best.yaml").write_text("a: 1\n")
    path.write_bytes(b"")
    assert "is no journal of format" in refusal(path)


@pytest.mark.parametrize("way", ["replaced", "moved", "removed", "longer"])
def test_a_writer_stops_if_its_journal_is_changed_by_another_process(tmp_path, way):
    path = journal_of(tmp_path, [{"event": "a"}])
    with Journal(path) as journal:
        journal.append({"event": "b"})
        match way:
            case "replaced":
                shutil.copy(path, tmp_path / "copy")
                (tmp_path / "copy").replace(path)
            case "moved":
                path.rename(tmp_path / "kept")
                shutil.copy(tmp_path / "kept", path)
            case "removed":
                path.unlink()
            case _:
                path.write_bytes(path.read_bytes() + b"x")
        with pytest.raises(SearchError, match=r"by another process.*`evomerge resume"):
            journal.append({"event": "c"})
