"""Studies: candidates are given, scores are told, and a kill loses neither."""

import hashlib
import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from search_run import SMALL, evomerge, searched, write_search

from evomerge.api.run import Run
from evomerge.api.search import resume, search
from evomerge.api.study import Asked, Study
from evomerge.errors import ConfigError, InputError, RunFolderError, SearchError
from evomerge.problem.runs import prepare

PROBLEM = {key: SMALL[key] for key in ("seed", "parents", "base", "dtype", "space", "optimizer")}
CONFIG = {**PROBLEM, "objectives": [{"told": "wins"}], "budget": {"candidates": 30}}


def wins(candidate: Asked) -> float:
    """Return a score that depends on the merge alone."""
    digest = hashlib.sha256(candidate.recipe.digest.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 - sum(candidate.genes.values()) / 10


def digests(run: Run) -> list[str]:
    return [item.digest for item in run.history.candidates]


def play(study: Study, width: int, most: int = 10**9) -> None:
    """Tell the oldest open candidate whenever so many are open, `most` times."""
    opened: list[Asked] = []
    for _ in range(most):
        while len(opened) < width and not study.is_done:
            opened.append(study.ask())
        if not opened:
            return
        candidate = opened.pop(0)
        study.tell(candidate, wins(candidate) if candidate.number % 7 else None)


@pytest.mark.thorough
def test_a_study_that_is_told_the_scores_of_a_search_proposes_its_candidates(tmp_path) -> None:
    file = write_search(tmp_path, budget={"candidates": 17})
    found = searched(file, tmp_path / "search")
    assert found.config.executor.order == "generation", "of 10, so that the scores of one count"
    known = [item.fitness for item in found.history.candidates]
    study = Study({**CONFIG, "budget": {"candidates": 17}}, run=tmp_path / "study")
    for candidate in study:
        study.tell(candidate, known[candidate.number])
    assert digests(study) == digests(found)
    origins = [[item.origin for item in run.history.candidates] for run in (study, found)]
    assert origins[0] == origins[1]


def test_a_search_goes_on_whatever_the_order_in_which_scores_are_told(tmp_path: Path) -> None:
    study = Study(CONFIG, run=tmp_path / "study")
    first = [study.ask() for _ in range(8)]
    names = ["zoo:language", "zoo:maths", "uniform", "optimizer"]
    assert [item.name for item in first[:4]] == names
    assert first[2].genes == {} and len(first[3].genes) == 8
    for candidate in reversed(first[1:]):
        study.tell(candidate.number, wins(candidate))
    assert study.ask().number == 8
    history = study.history
    assert [item.number for item in history.finished] == [7, 6, 5, 4, 3, 2, 1]
    assert [item.number for item in history.open] == [0, 8]
    assert study.best is not None
    assert study.best.fitness == max(wins(item) for item in first[1:])


SCRIPT = """
import os, signal, sys
sys.path[:0] = {paths!r}
from test_study import CONFIG, Study, play

study = Study(CONFIG, run=sys.argv[1])
play(study, 3, int(sys.argv[2]))
study.ask()
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.thorough
def test_a_study_that_is_killed_goes_on_as_if_it_never_was(tmp_path: Path) -> None:
    with Study(CONFIG, run=tmp_path / "whole") as study:
        play(study, 3)
    tests = Path(__file__).parent
    script = SCRIPT.format(paths=[str(tests), str(tests.parent / "shared")])
    (tmp_path / "playing.py").write_text(script)
    for most in (1, 6, 13):  # the open candidates are given again, so the course is the same
        about = {"module": "playing", "code": -signal.SIGKILL, "PYTHONPATH": str(tmp_path)}
        evomerge(tmp_path / "killed", most, **about)
    with Study(run=tmp_path / "killed") as study:
        assert [study.ask().number for _ in range(3)] == [20, 21, 22]
    with Study(CONFIG, run=tmp_path / "killed") as study:
        play(study, 3)
    for name in ("journal.jsonl", "best.yaml"):
        whole, killed = (tmp_path / run / name for run in ("whole", "killed"))
        assert whole.read_bytes() == killed.read_bytes(), name


def test_more_candidates_go_on_and_another_search_file_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "study"
    with pytest.warns(UserWarning, match="1 candidates for 8 genes"):
        study = Study(CONFIG, run=run, candidates=4)
    play(study, 1)
    with Study(CONFIG, run=run, candidates=6) as study:
        assert study.ask().number == 4
    with Study(run=run) as study:
        play(study, 2)
        assert len(study.candidates) == 6
    with pytest.raises(RunFolderError, match=r"another search .* differs in `seed`"):
        Study({**CONFIG, "seed": 3}, run=run)
    with Study({**CONFIG, "budget": {"candidates": 7}}, run=run) as study:
        assert study.ask().number == 6


def test_scores_by_name_make_a_front_and_keep_constraints(tmp_path: Path) -> None:
    config = {
        **CONFIG,
        "objectives": [{"told": "wins"}, {"told": "steps", "goal": "minimize"}],
        "constraints": [{"told": "falls", "at_most": 2}],
        "mode": "pareto",
        "optimizer": {"name": "nsga2"},
    }
    study = Study(config, run=tmp_path / "study")
    told = [(0.9, 30, 3), (0.5, 9, 0), (0.6, 10, 2), (0.7, 12, 0), (0.4, 11, 1)]
    for wins, steps, falls in told:
        study.tell(study.ask(), {"wins": wins, "steps": steps, "falls": falls})
    assert [item.number for item in study.front] == [3, 2, 1]
    assert " leads by the scores that the study was told" in str(study)
    last = study.ask()
    for score in (0.5, {"wins": 1, "step": 2, "falls": 0}):
        with pytest.raises(InputError, match="wants numbers for wins, steps, falls"):
            study.tell(last, score)  # type: ignore[arg-type]
    study.tell(last, {"wins": 1, "steps": float("nan"), "falls": 0})
    assert study.history.candidates[last.number].status == "failed"


def test_what_is_no_open_candidate_and_no_score_is_refused(tmp_path: Path) -> None:
    """A number as text, or the candidate of another study, would be told to some candidate."""
    study, other = (Study(CONFIG, run=tmp_path / name) for name in ("study", "other"))
    study.tell(study.ask(), 1.0)
    candidate, foreign = study.ask(), other.ask()
    for told, score, message in (
        (0, 1.0, "Candidate 0 waits for no score: it has an outcome already"),
        (9, 1.0, "Candidate 9 waits for no score: the study has given 3 candidates so far"),
        (foreign, 1.0, "is a candidate of the study .*/other, and this one is .*/study"),
        ("1", 1.0, "The candidate is '1'; it must be one that `ask` has given, or its number"),
        (candidate, "3", "The score is '3', but must be a number"),
        (candidate, {"wins": None}, "must be a number"),
        (candidate, {}, "wants numbers for wins"),
    ):
        with pytest.raises(InputError, match=message):
            study.tell(told, score)  # type: ignore[arg-type]
    study.tell(2, 0.5)  # it needs nobody's `ask`
    assert [item.number for item in study.history.open] == [1]
    again = Study(run=tmp_path / "study")  # as if a cell of a notebook was run again
    again.tell(candidate, True)
    assert again.history.candidates[1].fitness == 1.0
    assert again.ask().number == 3


def test_each_open_candidate_has_a_model_of_its_own_which_is_the_exported_one(tmp_path) -> None:
    study = Study(CONFIG, run=tmp_path / "study")
    for number in (0, 1):
        study.tell(number, 0.5)
    opened, built = [study.ask() for _ in range(3)], []
    for candidate in opened:
        model, tokenizer = candidate.model()
        check_exported(candidate, model, tmp_path)
        assert tokenizer("a")["input_ids"] and candidate.model()[0] is model
        built.append(model)
        if candidate is not opened[-1]:
            with pytest.raises(InputError, match=f"Candidate {candidate.number} has its model in"):
                opened[-1].model()
            study.tell(candidate, 0.5)
    assert built[0] is built[1] is built[2], "all are merged into the same memory"
    with torch.no_grad():  # a changed model is not built upon
        for weight in built[2].parameters():
            weight.zero_()
    study.tell(opened[2], 0.5)
    model, _ = (candidate := study.ask()).model()
    check_exported(candidate, model, tmp_path)
    with pytest.raises(InputError, match="Candidate 2 waits for no score"):
        opened[0].model()


def check_exported(candidate: Asked, model: Any, folder: Path) -> None:
    """Check that a candidate is written as the model that it has."""
    written = load_file(candidate.save(folder / str(candidate.number)) / "model.safetensors")
    own = model.state_dict()
    assert written and all((own[name] == tensor).all() for name, tensor in written.items())


def test_threads_may_share_a_study(tmp_path: Path) -> None:
    study = Study(CONFIG, run=tmp_path / "study")

    def score(_: int) -> int:
        study.tell(candidate := study.ask(), wins(candidate))
        return candidate.number

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(score, range(30))) == list(range(30))
    assert study.is_done and study.status["scored"] == 30


def test_there_is_one_writer(tmp_path: Path) -> None:
    old = Study(CONFIG, run=tmp_path / "study")
    old.ask()
    new = Study(run=tmp_path / "study")  # a cell of a notebook that is run again
    with pytest.raises(RunFolderError, match="was closed, or opened again"):
        old.ask()
    assert new.ask().number == 0
    new.close()
    with Run(tmp_path / "study")._run.writing(), pytest.raises(RunFolderError, match="process"):
        Study(run=tmp_path / "study")


def test_a_target_or_stop_ends_what_a_study_gives(tmp_path: Path) -> None:
    reaching = Study(
        {**CONFIG, "budget": {"candidates": 9, "target": 2.5}}, run=tmp_path / "target"
    )
    for candidate in reaching:
        reaching.tell(candidate, candidate.number)
    assert reaching.is_done and len(reaching.history.finished) == 4
    study = Study(CONFIG, run=tmp_path / "study")
    study.tell(study.ask(), 1.0)
    Run(tmp_path / "study").stop()
    assert [item.number for item in study] == [1, 2], "the open ones are still given"
    with pytest.raises(SearchError, match=r"\(open: 1, 2\)"):
        study.ask()
    assert Study(run=tmp_path / "study").ask().number == 1


def test_a_search_that_is_told_scores_names_the_study(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps(CONFIG))
    Study(file, run=tmp_path / "study").close()
    for call in (
        lambda: search(file, tmp_path / "run", progress=False),
        lambda: resume(tmp_path / "study", progress=False),
        lambda: prepare(Run(tmp_path / "study").config, tmp_path),
    ):
        with pytest.raises(ConfigError, match=r"`evomerge\.Study` in Python gives you candidates"):
            call()
    assert not (tmp_path / "run").exists()
    assert Run(tmp_path / "study").status["open"] == 3
