"""A worker made from a run folder, in another process, gives the scores of the search."""

from __future__ import annotations

import json
from dataclasses import replace

from search_run import evomerge, write_search

from evomerge.run.folder import RunFolder
from evomerge.run.history import History, outcome_fields

CODE = """
import json, sys
from pathlib import Path
from evomerge.execute.protocol import Job
from evomerge.run.folder import RunFolder
from evomerge.run.history import History, outcome_fields
from evomerge.setup.runs import reopen
from evomerge.setup.strategy import recipe_of
from evomerge.setup.worker import make_worker

run = RunFolder(Path(sys.argv[1]))
problem = reopen(run)
worker = make_worker(problem)
for number in (5, 1, 8):
    recipe = recipe_of(problem.space, History(run.events()).candidates[number])
    print(json.dumps([number, outcome_fields(worker(Job(1, number, recipe)))]))
"""


def test_a_worker_of_a_run_folder_gives_the_same_scores(tmp_path):
    evomerge("search", write_search(tmp_path), "--run", tmp_path / "run", "--candidates", "9")
    (tmp_path / "program.py").write_text(CODE)
    done = evomerge(tmp_path / "run", module="program", cwd=tmp_path)
    history = History(RunFolder(tmp_path / "run").events())
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [number for number, _ in lines] == [5, 1, 8]
    for number, fields in lines:
        told = history.candidates[number].told
        assert fields == json.loads(json.dumps(outcome_fields(replace(told, examples=()))))
