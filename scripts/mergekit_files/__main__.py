"""Builds mergekit files with evomerge and with mergekit, and compares the models.

    python -m scripts.mergekit_files FILE ... --mergekit PYTHON [--stand-ins KIND] [--work DIR]

PYTHON is that of an environment with mergekit. What is compared is the arithmetic: both tools get
`dtype: float32`, and dare and della keep every change (`density: 1`), since their random numbers
differ. Adapters are merged in float32 by both.

With --stand-ins, tiny random models of an architecture (a model type of transformers, for example
llama) take the place of all models of the files, with as many layers as a file needs; a model with
an adapter counts as one. Without it the models are those that the files name. Where these are
bfloat16, methods that select by magnitude (such as ties) differ at elements of equal magnitude.

There is one line for each file: `equal` (bit for bit), `rounding` (no tensor differs by more than
2e-6 of its norm), `differs`, `other names` (of tensors), `only evomerge`, `only mergekit` or
`neither`, and why. The last line is one JSON object with the counts. DIR keeps the models.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from evomerge.errors import EvomergeError
from evomerge.export.recipe import merge_recipe
from scripts.mergekit_files.compare import compare
from scripts.mergekit_files.stand_ins import stand_in

THEIRS = Path(__file__).with_name("theirs.py")
RANDOM = ("dare", "della")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--mergekit", required=True, metavar="PYTHON")
    parser.add_argument("--stand-ins", metavar="KIND", help="a model type of transformers")
    parser.add_argument("--work", type=Path, help="folder for the models, which are kept")
    arguments = parser.parse_args()
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        places = [work / file.stem for file in arguments.files]
        for file, place in zip(arguments.files, places, strict=True):
            _write(file, place, arguments.stand_ins, work / "models")
        for place, theirs in _built_by_mergekit(arguments.mergekit, places):
            verdict, told = _verdict(place, _built_by_evomerge(place), theirs)
            counts[verdict] += 1
            print(f"{place.name:32}{verdict:16}{told}", flush=True)
    print(json.dumps(dict(sorted(counts.items()))))


def _write(file: Path, place: Path, kind: str | None, models: Path) -> None:
    """Write the file that both tools build into an empty folder."""
    data = yaml.safe_load(file.read_text(encoding="utf-8"))
    if kind:
        data = stand_in(data, kind, models)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    text = yaml.safe_dump(_exact(data), sort_keys=False)
    (place / "file.yaml").write_text(text, encoding="utf-8")


def _exact(data: dict[str, Any]) -> dict[str, Any]:
    """Return a merge in float32 that leaves nothing to chance."""
    exact = {**data, "dtype": "float32"}
    exact.pop("out_dtype", None)
    if str(data.get("merge_method")).startswith(RANDOM):
        exact = _dense(exact)
        exact["parameters"] = {**exact.get("parameters", {}), "density": 1.0}
    return exact


def _dense(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: 1.0 if key == "density" else _dense(item) for key, item in node.items()}
    return [_dense(item) for item in node] if isinstance(node, list) else node


def _built_by_mergekit(python: str, places: Sequence[Path]) -> Iterator[tuple[Path, str | None]]:
    """Build the files one after the other in one process; yield each folder and its error."""
    command = [python, str(THEIRS), *map(str, places)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for place, line in zip(places, process.stdout or (), strict=True):
            said = (place / "mergekit.txt").read_text(encoding="utf-8", errors="replace")
            yield place, said.rstrip().rpartition("\n")[2] if int(line) else None


def _built_by_evomerge(place: Path) -> str | None:
    try:
        merge_recipe(place / "file.yaml", place / "evomerge", "4GB", "5GB")
    except EvomergeError as error:
        return str(error)
    return None


def _verdict(place: Path, ours: str | None, theirs: str | None) -> tuple[str, str]:
    if ours is None and theirs is None:
        return compare(place / "evomerge", place / "mergekit")
    if ours is None:
        return "only evomerge", f"mergekit: {theirs}"
    if theirs is None:
        return "only mergekit", f"evomerge: {ours}"
    return "neither", f"evomerge: {ours} mergekit: {theirs}"


if __name__ == "__main__":
    main()
