"""On validation and test documents a parent is scored as itself, as `evomerge evaluate` does it."""

from __future__ import annotations

import html
import json
import signal
from pathlib import Path

import lm_eval
import pytest
import torch
import yaml
from known_parents import OTHER, PLAIN, copy_of, edit_tokenizer, problem_of, search_over
from lm_eval.tasks import TaskManager
from safetensors.torch import load_file
from search_run import SMALL, events_of, evomerge, evomerge_json, kill_when
from tiny import rewrite

from evomerge import zoo
from evomerge.merging import backend
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.scores import Failure
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.freeze import freeze
from evomerge.setup.parents_as_themselves import lent_notes
from evomerge.setup.runs import reopen
from evomerge.setup.search import evaluate, run_search

pytestmark = pytest.mark.thorough

KEY = "zoo_maths/exact_match"


def run_of(problem: CheckedSearch, folder: Path) -> tuple[RunFolder, History]:
    """Run a search and return what it has written."""
    run = RunFolder.create(folder, "{}", freeze(problem))
    run_search(problem, run, {})
    return run, History(run.events())


def stock_score(model: Path, problem: CheckedSearch, *, chat: bool) -> float:
    """Return the score on the test documents by lm-eval alone."""
    found = lm_eval.simple_evaluate(
        model="hf",
        model_args=f"pretrained={model}",
        device="cpu",
        tasks=["zoo_maths"],
        task_manager=TaskManager(include_path=str(zoo.tasks_path()), include_defaults=False),
        samples={"zoo_maths": list(problem.splits["test"]["zoo_maths"])},
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    return found["results"]["zoo_maths"]["exact_match,none"]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A finished run whose host has another chat template than a maths model; the maths model."""
    folder = tmp_path_factory.mktemp("templates")
    host = copy_of("base", folder / "host", OTHER)
    maths = copy_of("maths", folder / "maths", PLAIN)
    data = search_over([maths, copy_of("language", folder / "language", OTHER)], host, chat=True)
    (folder / "search.yaml").write_text(yaml.safe_dump(data))
    evomerge("search", folder / "search.yaml", "--run", folder / "run")
    return folder / "run", maths


def test_a_parent_with_another_chat_template_has_the_score_of_evaluate(
    templates: tuple[Path, Path],
) -> None:
    run, maths = templates
    history, problem = History(RunFolder(run).events()), reopen(RunFolder(run))
    row = next(item for item in history.baselines if item.label == str(maths))
    for split in ("validation", "test"):
        own = evaluate(problem, str(maths), split)
        assert row.outcomes[split].values == own.values
        assert row.outcomes[split].documents == own.documents
    score = row.scores("test").aggregates[KEY]
    assert score == stock_score(maths, problem, chat=True) > 0.5
    assert row.scores("search").aggregates[KEY] < 0.1  # the candidate with the host's template
    assert row.as_itself == {"validation", "test"} and history.winner is row
    others = [item for item in history.baselines if item is not row]
    assert not any(item.as_itself for item in others)


def test_the_log_and_the_report_say_what_differs_and_which_scores_are_the_parents_own(
    templates: tuple[Path, Path],
) -> None:
    run, _ = templates
    said = "INFO maths is not like the merges in chat template; its final scores are of the"
    assert said in (run / "log.txt").read_text()
    evomerge("report", run, "--out", run.parent / "report.html")
    page = html.unescape((run.parent / "report.html").read_text())
    told = "On the validation and test documents maths is scored with the parent's own"
    assert told in page
    assert told in evomerge("results", run).stderr


def test_a_parent_that_wins_is_exported_as_it_is(templates: tuple[Path, Path]) -> None:
    run, maths = templates
    out = run.parent / "model"
    evomerge("export", run, "--out", out)
    for name in ("config.json", "chat_template.jinja", "tokenizer.json", "generation_config.json"):
        assert (out / name).read_bytes() == (maths / name).read_bytes(), name
    ours, theirs = load_file(out / "model.safetensors"), load_file(maths / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    card = (out / "README.md").read_text()
    assert "It is no merge, but the parent `maths` itself, unchanged" in card
    problem, history = reopen(RunFolder(run)), History(RunFolder(run).events())
    score = history.winner.scores("test").aggregates[KEY]
    assert stock_score(out, problem, chat=True) == score
    assert "dtype=auto" in evomerge_json("results", run)["lm_eval"]
    evomerge("export", run, "--out", run.parent / "half", "--dtype", "bfloat16")
    half = load_file(run.parent / "half" / "model.safetensors")
    assert all(torch.equal(half[name], theirs[name].bfloat16()) for name in theirs)
    assert (run.parent / "half" / "chat_template.jinja").read_text() == PLAIN
    evomerge("merge", run / "best.yaml", "--out", run.parent / "again")
    assert (run.parent / "again" / "chat_template.jinja").read_text() == PLAIN


@pytest.mark.parametrize("part", ["chat template", "tokenizer"])
def test_a_parent_that_wins_is_exported_with_what_it_lacks(tmp_path: Path, part: str) -> None:
    host = copy_of("language", tmp_path / "host", PLAIN)
    maths = copy_of("maths", tmp_path / "maths")
    if part == "tokenizer":
        for file in maths.glob("tokenizer*"):
            file.unlink()
    (tmp_path / "search.yaml").write_text(
        yaml.safe_dump(search_over([host, maths], host, chat=True))
    )
    evomerge("search", tmp_path / "search.yaml", "--run", tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    assert f"maths has no {part} and takes that of host" in (run.path / "log.txt").read_text()
    history, problem = History(run.events()), reopen(run)
    assert history.winner is not None and history.winner.label == str(maths)
    assert lent_notes(problem, {str(maths): "it", str(host): "host"}) == [
        f"it has no {part} and takes that of host, also on validation and test documents and in "
        "the export of a parent that wins."
    ]
    out = tmp_path / "model"
    evomerge("export", run.path, "--out", out)
    scores = history.winner.scores("test")
    assert scores is not None and scores.aggregates[KEY] > 0.5
    assert evaluate(problem, str(out), "test").values == scores.values
    assert stock_score(out, problem, chat=True) == scores.aggregates[KEY]
    card = (out / "README.md").read_text()
    assert "with its own config, tokenizer and chat template as far as it has them" in card
    assert (out / "config.json").read_bytes() == (maths / "config.json").read_bytes()
    evomerge("merge", out / "evomerge_recipe.yaml", "--out", tmp_path / "again")
    evomerge("export", run.path, "--out", tmp_path / "half", "--dtype", "bfloat16")
    for folder in (tmp_path / "again", tmp_path / "half"):
        for file in (*host.glob("tokenizer*"), host / "chat_template.jinja"):
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


def test_killed_between_validation_and_test_and_with_two_processes(
    templates: tuple[Path, Path], tmp_path: Path
) -> None:
    unbroken, _ = templates
    file = unbroken.parent / "search.yaml"
    lines = (unbroken / "journal.jsonl").read_text().splitlines()
    winner = next(i for i, line in enumerate(lines, 1) if '"event":"winner"' in line)
    run = tmp_path / "run"
    assert (
        kill_when(["search", file, "--run", run], run / "journal.jsonl", winner, 0.0)
        == -signal.SIGKILL
    )
    assert len((run / "journal.jsonl").read_bytes().splitlines()) < len(lines)
    evomerge("resume", run)
    for name in ("journal.jsonl", "best.yaml", "search.yaml"):
        assert (run / name).read_bytes() == (unbroken / name).read_bytes(), name
    two = yaml.safe_load(file.read_text()) | {"executor": {"kind": "processes", "workers": 2}}
    run_of(problem_of(two), tmp_path / "two")
    assert events_of(tmp_path / "two") == events_of(unbroken)


def bfloat16(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: item.bfloat16() for name, item in tensors.items()})

    rewrite(folder, change)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"torch_dtype": "bfloat16"}))


def over_configs(kind: str, host: Path, maths: Path) -> CheckedSearch:
    """Return the problem of a search in a kind of space."""
    data = search_over([maths, host], host)
    if kind == "dataflow":
        data |= {"space": {"kind": kind, "variant": "swaps", "host": str(host)}, "base": None}
        data |= {"parents": [str(host), str(maths)]}
    return problem_of(data)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [("parameters", {"rope_theta": 30.0}), ("dataflow", {"rms_norm_eps": 0.5})],
    ids=["parameters", "dataflow"],
)
def test_a_parent_with_another_config_has_the_score_of_evaluate(
    tmp_path: Path, kind: str, setting: dict[str, float]
) -> None:
    """Either difference makes it one of another config: its dtype, and the setting."""
    maths, plain = copy_of("maths", tmp_path / "maths"), copy_of("base", tmp_path / "plain")
    host = copy_of("base", tmp_path / "host", **setting)
    assert over_configs(kind, plain, maths).unlike_merges == ()
    assert over_configs(kind, host, maths).unlike_merges == (str(maths),)
    bfloat16(maths)
    assert over_configs(kind, plain, maths).unlike_merges == (str(maths),)
    problem = over_configs(kind, host, maths)
    _, history = run_of(problem, tmp_path / "run")
    row = next(item for item in history.baselines if item.label == str(maths))
    own = evaluate(problem, str(maths), "test")
    assert row.outcomes["test"].values == own.values
    score = row.scores("test").aggregates[KEY]
    assert score == stock_score(maths, problem, chat=False)
    assert score > row.scores("search").aggregates[KEY] + 0.3


def test_a_parent_whose_texts_are_decoded_in_another_way_has_the_score_of_evaluate(
    tmp_path: Path,
) -> None:
    host = copy_of("steps", tmp_path / "host")
    clean = copy_of("steps", tmp_path / "clean")
    edit_tokenizer(clean, clean_up_tokenization_spaces=True)
    (tmp_path / "tasks").mkdir()
    first_dot = [
        {"function": "regex", "regex_pattern": r"( \.)"},
        {"function": "take_first"},
    ]
    dots = {
        "task": "dots",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(zoo.tasks_path() / "zoo_steps.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": ".",
        "generation_kwargs": {"until": ["<eos>"], "do_sample": False, "max_gen_toks": 40},
        "filter_list": [{"name": "dots", "filter": first_dot}],
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "tasks" / "dots.yaml").write_text(yaml.safe_dump(dots))
    data = search_over([host, clean], host, objectives=[{"task": "dots", "metric": "exact_match"}])
    data["evaluation"] |= {"include": [str(tmp_path / "tasks")]}
    problem = problem_of(data)
    assert problem.unlike_merges == (str(clean),)
    _, history = run_of(problem, tmp_path / "run")
    rows = {row.label: row.scores("test").aggregates for row in history.baselines}
    own = evaluate(problem, str(clean), "test").values
    (score,) = rows[str(clean)].values()
    assert score == sum(own["dots/exact_match"]) == 0 < min(rows[str(host)].values())


def test_parents_with_the_settings_of_the_merge_need_no_second_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    for name in ("load", "resident"):

        def counted(*args, _make=getattr(backend, name), _name=name, **more):  # type: ignore[no-untyped-def]
            made.append(_name)
            return _make(*args, **more)

        monkeypatch.setattr(backend, name, counted)
    noise = {"_name_or_path": "elsewhere", "use_cache": False, "transformers_version": "4.40.0"}
    maths = copy_of("maths", tmp_path / "maths", **noise)
    data = SMALL | {"parents": ["zoo:language", str(maths)], "budget": {"candidates": 4}}
    problem = problem_of(data)
    assert problem.unlike_merges == ()
    _, history = run_of(problem, tmp_path / "run")
    assert history.winner is not None and made == ["resident", "load"]  # the base
    assert not any(item.as_itself for item in history.candidates)


def test_a_parent_whose_own_template_fails_is_a_failed_outcome(tmp_path: Path) -> None:
    host = copy_of("base", tmp_path / "host", PLAIN)
    broken = copy_of("maths", tmp_path / "broken", "{{ raise_exception('no chats') }}")
    none = copy_of("language", tmp_path / "none")
    problem = problem_of(search_over([broken, none], host, chat=True))
    assert problem.unlike_merges == (str(broken),)
    _, history = run_of(problem, tmp_path / "run")
    row = next(item for item in history.baselines if item.label == str(broken))
    for split in ("validation", "test"):
        outcome = row.outcomes[split]
        assert isinstance(outcome, Failure)
        assert "cannot be scored as itself: " in outcome.reason and "no chats" in outcome.reason
    assert history.winner is not None and history.winner is not row
    assert history.winner.scores("test") is not None
