"""Tests stand where what they test stands; rooms name only what is theirs."""

import ast
import re
from pathlib import Path

import evomerge
from evomerge.config.evaluation import ENGINES
from evomerge.config.executor import EXECUTORS
from evomerge.config.objectives import ROWS
from evomerge.config.optimizer import OPTIMIZER_KINDS
from evomerge.config.space import ABOUT, SPACES
from evomerge.optimize import BUILTIN

ROOT = Path(evomerge.__file__).parent


def test_the_tests_mirror_the_package():
    def folders(path: Path) -> set[str]:
        return {item.parent.name for item in path.glob("*/*.py")}

    package = folders(ROOT)
    others = {"attacks", "scripts", "benchmarks", "docs", "laws", "shared"}
    assert folders(Path(__file__).parent) == package | others


KINDS = re.compile(
    r"encoder|classif|sentence.transformers|modality|\bvision|\baudio|lm.eval|For[A-Z]\w+Cla|"
    r"For[A-Z]\w+LM\b|generate_until|likelihoods? of|\brewards?\b",
    re.IGNORECASE,
)
"""Kinds of models and of what they are scored on, which objectives and `models/` know."""


def test_what_begins_runs_and_reports_a_search_names_no_kind():
    rooms = [ROOT / name for name in ("problem", "execute", "run", "report")]
    files = [file for room in rooms for file in room.glob("*.py")]
    lines = [(file.name, line) for file in files for line in file.read_text().splitlines()]
    assert len(files) > 30 and not [it for it in lines if KINDS.search(it[1])]


NAMES = {*BUILTIN, *OPTIMIZER_KINDS.builtin, *ABOUT, *SPACES.builtin, *EXECUTORS.builtin}
NAMES |= {*ROWS, *ENGINES.builtin, "encoder", "classifier"}
ALLOWED = {
    "problem/draft.py": "it writes a search file, so it chooses kinds",
    "problem/runs.py": "`executor.ray` is a key that a resumed run may change",
    "cli/models.py": "a knob has a gradient, a model has parameters",
    "cli/search.py": "presets are files of these names",
}
"""File -> why it may hold a text that is the name of a kind."""


def test_what_joins_kinds_names_none_and_asks_for_the_class_of_none():
    """Optimizers, strategies, spaces, executors, engines, kinds of objectives; see `KINDS`, too."""
    rooms = ("problem", "searching", "report", "api", "cli")
    files = [file for room in rooms for file in (ROOT / room).rglob("*.py")]
    named, asked = set[str](), set[str]()
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= {name} if node.value in NAMES - {"auto", "random", "grid"} else set()
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                asked |= {each.id for each in ast.walk(node.args[1]) if isinstance(each, ast.Name)}
    assert named <= ALLOWED.keys()
    assert not [each for each in asked if each.endswith(("Config", "Kind", "Space", "Executor"))]
