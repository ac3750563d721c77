"""Reading what trackers have written to disk."""

import json
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Logged:
    """A run of a tracker."""

    id: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def wandb_runs(folder: Path) -> list[Logged]:
    """Return the offline runs of wandb in a folder, the oldest one first."""
    return [_wandb_run(path) for path in sorted(folder.glob("offline-run-*/*.wandb"))]


def _wandb_run(path: Path) -> Logged:
    from wandb.proto.wandb_internal_pb2 import Record

    run = Logged()
    for data in _records(path.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            config = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            run.config = {key: value for key, value in config.items() if key != "_wandb"}
        elif kind == "history":
            items = ((item.key or "/".join(item.nested_key), item) for item in record.history.item)
            run.steps.append({key: json.loads(item.value_json) for key, item in items})
        elif kind == "summary":
            items = ((item.key or item.nested_key[0], item) for item in record.summary.update)
            run.summary |= {key: json.loads(item.value_json) for key, item in items}
    return run


def _records(data: bytes):
    """Yield the records of a file in LevelDB's log format, behind wandb's seven bytes."""
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:  # what is left of a block holds no header
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or its last part
            yield parts
            parts = b""


def trackio_runs(project: str) -> list[Logged]:
    """Return the runs of a project in trackio's folder, read by another process."""
    done = subprocess.run(
        [sys.executable, "-c", READ_TRACKIO, project], capture_output=True, text=True, check=True
    )
    found: list[Logged] = []
    for run in json.loads(done.stdout):
        number, name, given, logs = run
        steps = [item for item in logs if "candidate" in item]
        summary = {key: item[key] for item in logs if "winner" in item for key in item}
        config = {key: value for key, value in given.items() if key[0] != "_"}
        found.append(Logged(number, name, config, steps, summary))
    return found


READ_TRACKIO = """
import json, sys
import trackio
from trackio.sqlite_storage import SQLiteStorage
name = sys.argv[1]
runs = [
    (run.id, run.name, run.config, SQLiteStorage.get_logs(name, run.name))
    for run in trackio.Api().runs(name)
]
json.dump(runs, sys.stdout)
"""
