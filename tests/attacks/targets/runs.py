"""The files of a run folder: the journal, and what `status` and `results` show of the others."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from attacks.targets.target import Read, Target, near_json, near_yaml
from draws import damaged, json_files, value_or_error
from hypothesis import strategies as st
from run_folders import KEY, asked, lines_of, scores, told, write_run
from search_run import SMALL

from evomerge.__main__ import run as command
from evomerge.run import folder as run_folder
from evomerge.run.folder import CONFIG, JOURNAL, MANIFEST
from evomerge.run.history import History
from evomerge.run.journal import HEADER, Journal, read
from evomerge.scores import Failure

SCORES = scores(9).to_dict()
ESTIMATE = SCORES | {"expected": {KEY: {"value": 0.4, "error": 0.1}}}
EVENTS = [
    *(HEADER, asked(0, "zoo:language"), told(0, scores(3))),
    *(asked(1, "uniform"), told(1, Failure("merge", "no weights")), asked(2, genome=[0.5, 1.0])),
    {"event": "tell", "candidate": 2, "scores": ESTIMATE, "values": [0.5]},
    {"event": "ask", "candidate": 3, "digest": "01", "generation": 0, "incumbent": 0, "known": 1},
    {"event": "tell", "candidate": 3, "same_as": 0, "values": [0.5]},
    {"event": "complete", "candidate": 2, "scores": SCORES, "values": [0.5]},
    {"event": "score", "candidate": 2, "split": "validation", "scores": SCORES},
    {"event": "memory", "halvings": 1},
    {"event": "winner", "candidate": 2},
    {"event": "budget", "candidates": 30, "hours": None},
]
TIMINGS = [
    {"session": 1.7e9, "elapsed": 3.5, "candidate": 0, "seconds": {"merge": 0.5}},
    {"candidate": 1, "seconds": {"evaluate": 1, "merge": 2}, "cpu_seconds": {"evaluate": 1.5}},
    {"session": 1.8e9, "elapsed": 8, "event": "tell", "candidate": 2, "peak": {"process": 10**9}},
    {"session": 1.8e9, "elapsed": 9, "phase": "prepare", "method": "ties", "done": 1, "total": 9},
]
KEPT: dict[str, Any] = {
    "config": SMALL, "versions": {"torch": "2.9"}, "parents": {"zoo:language": "ab" * 32},
    "documents": {split: {"zoo_maths": [0, 3]} for split in ("search", "validation", "test")},
    "sources": {"search": {"zoo_maths": "zoo_maths/test"}}, "genes": ["weight/0"], "digest": "any",
    "datasets": {"test": {"zoo_maths": {"id": "org/sums", "config": "en", "split": "test"}}},
    "lower_is_better": ["zoo_maths/exact_match"],
}  # fmt: skip


def journals(folder: Path) -> Read:
    """A journal: read, and opened by a writer."""
    path = folder / JOURNAL

    def fold() -> list[Any]:
        history = History(read(path))
        return [(item.status, item.fitness, item.is_estimate) for item in history.candidates]

    def write() -> History:
        with Journal(path) as journal:
            return History(journal.events)

    def read_one(data: bytes) -> Any:
        path.write_bytes(data)
        told = value_or_error(fold)
        assert (value_or_error(write) is None) == (told is None)
        return told

    return read_one


def said(*arguments: object) -> str:
    """Run a command in this process and return what it printed."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()):
        code = command([str(item) for item in arguments])
    assert code in (0, 1, 2), code
    return output.getvalue()


def not_finite(text: str) -> None:
    """Refuse what JSON does not have."""
    raise AssertionError(f"{text} is no JSON")


def shown(name: str) -> Any:
    """Return the reader of one file of a run, which `status` and `results` show, of any digest."""

    def reader(folder: Path) -> Read:
        run = write_run(folder / "run", EVENTS[1:]).path
        if name in (CONFIG, MANIFEST):
            (run / MANIFEST).write_text(json.dumps(KEPT))
        any_digest = patch.object(run_folder, "_digest", lambda _: "any")

        def read_one(data: bytes) -> Any:
            (run / name).write_bytes(data)
            with any_digest if name in (CONFIG, MANIFEST) else contextlib.nullcontext():
                found = [
                    value_or_error(lambda words=words: said(words[0], run, *words[1:]))
                    for words in (("status", "--json"), ("results", "--json"), ("results",))
                ]
            for text in filter(None, found[:2]):
                json.loads(text, parse_constant=not_finite)
            assert "\x1b" not in "".join(filter(None, found))
            return found

        return read_one

    return reader


def _lines(lines: list[dict[str, Any]], reader: Any) -> Target:
    near = st.sampled_from(lines).flatmap(json_files).map(lambda text: text.replace(b"\n", b" "))
    whole = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return Target((whole,), st.lists(near, max_size=3).map(b"\n".join) | damaged(whole), reader)


_JOURNAL = b"".join(lines_of(EVENTS))
RUNS = {
    "journal": Target((_JOURNAL,), damaged(_JOURNAL), journals),
    "shown journal": Target((_JOURNAL,), damaged(_JOURNAL), shown(JOURNAL)),
    "shown search": near_yaml(shown(CONFIG), SMALL),
    "shown manifest": near_json(shown(MANIFEST), KEPT),
    "shown timings": _lines(TIMINGS, shown("timings.jsonl")),
}
