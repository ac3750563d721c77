"""On validation and test documents a parent is scored as itself, as `evomerge evaluate` does it."""

import html
import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from search_run import SMALL, evomerge, evomerge_json, problem_of, search_over, searched
from stock_scores import by_lm_eval
from tiny import OTHER, PLAIN, copy_of, rewrite

import evomerge as package
from evomerge.merging import backend
from evomerge.merging.resident import Resident
from evomerge.run.history import Candidate
from evomerge.scores import Failure

pytestmark = pytest.mark.thorough

KEY = "zoo_maths/exact_match"


def run_over(folder: Path, data: dict) -> package.Run:
    (folder / "search.yaml").write_text(yaml.safe_dump(data))
    return searched(folder / "search.yaml", folder / "run")


def row_of(run: package.Run, parent: Path) -> Candidate:
    return next(item for item in run.history.baselines if item.label == str(parent))


def dtype_of(run: package.Run) -> str:
    """Return the dtype that the stock tool is told: that of a parent's files, or float32."""
    return "float32" if run.config.evaluation.float32 is True else "auto"


def check_own_score(run: package.Run, model: Path, row: Candidate, key: str = KEY) -> float:
    scores, file = row.scores("test"), run.folder / "search.yaml"
    assert scores is not None
    own = package.evaluate(model, file)[key].value
    search = yaml.safe_load(file.read_text())
    stock = by_lm_eval(search, dtype_of(run), model, scores.documents)[key]
    assert scores.aggregates[key] == own == stock
    return own


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> tuple[package.Run, Path]:
    """A finished run whose host has another chat template than a maths model; the maths model."""
    folder = tmp_path_factory.mktemp("templates")
    host = copy_of("base", folder / "host", OTHER)
    maths = copy_of("maths", folder / "maths", PLAIN)
    data = search_over([maths, copy_of("language", folder / "language", OTHER)], host, chat=True)
    return run_over(folder, data), maths


def test_a_parent_with_another_chat_template_has_the_score_of_evaluate(templates):
    run, maths = templates
    row = row_of(run, maths)
    assert check_own_score(run, maths, row) > 0.5
    validated = package.evaluate(maths, run.folder / "search.yaml", "validation")[KEY].value
    assert row.scores("validation").aggregates[KEY] == validated
    assert row.scores("search").aggregates[KEY] < 0.1  # the candidate with the host's template
    assert row.as_itself == {"validation", "test"} and run.winner.number == row.number
    tests = run.documents().query("split == 'test'").groupby("candidate").document.nunique()
    assert {item.label for item in run.history.candidates if item.number in tests} > {None}
    assert tests.nunique() == 1 and not run.history.tested  # the best merge did not win
    assert not any(item.as_itself for item in run.history.baselines if item.number != row.number)
    said = "INFO maths is not like the merges in chat template; its final scores are of the"
    assert said in (run.folder / "log.txt").read_text()
    told = "or dtype than the merges are scored with their own ones on the validation and test"
    assert told in html.unescape(run.report().read_text())
    assert told in evomerge("results", run.folder).stderr


def test_a_parent_that_wins_is_exported_as_it_is(templates, tmp_path):
    run, maths = templates
    out = run.export(tmp_path / "model")
    for name in ("chat_template.jinja", "tokenizer.json"):
        assert (out / name).read_bytes() == (maths / name).read_bytes(), name
    for name in ("config.json", "generation_config.json"):
        assert json.loads((out / name).read_text()) == json.loads((maths / name).read_text()), name
    ours, theirs = load_file(out / "model.safetensors"), load_file(maths / "model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (
        "It is no merge, but the parent `maths` itself, unchanged"
        in (out / "README.md").read_text()
    )
    assert f"dtype={dtype_of(run)}" in evomerge_json("results", run.folder)["lm_eval"]
    half = run.export(tmp_path / "half", dtype="bfloat16")
    tensors = load_file(half / "model.safetensors")
    assert all(torch.equal(tensors[name], theirs[name].bfloat16()) for name in theirs)
    again = package.merge(run.folder / "best.yaml", tmp_path / "again")
    for folder in (half, again):
        assert (folder / "chat_template.jinja").read_text() == PLAIN


def test_a_parent_that_wins_is_exported_with_what_it_lacks(tmp_path: Path) -> None:
    host = copy_of("language", tmp_path / "host", PLAIN)
    maths = copy_of("maths", tmp_path / "maths")
    for file in maths.glob("tokenizer*"):
        file.unlink()
    run = run_over(tmp_path, search_over([host, maths], host, chat=True))
    assert "maths has no tokenizer and takes that of host" in (run.folder / "log.txt").read_text()
    assert run.winner.label == str(maths)
    out = run.export(tmp_path / "model")
    assert check_own_score(run, out, run.winner) > 0.5
    card = (out / "README.md").read_text()
    assert "with its own config, tokenizer and chat template as far as it has them" in card
    configs = [json.loads((folder / "config.json").read_text()) for folder in (out, maths)]
    assert configs[0] == configs[1]
    again = package.merge(out / "evomerge_recipe.yaml", tmp_path / "again")
    for folder in (again, run.export(tmp_path / "half", dtype="bfloat16")):
        for file in (*host.glob("tokenizer*"), host / "chat_template.jinja"):
            assert (folder / file.name).read_bytes() == file.read_bytes(), file.name


def bfloat16(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: item.bfloat16() for name, item in tensors.items()})

    rewrite(folder, change)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"torch_dtype": "bfloat16"}))


def test_a_parent_with_another_config_has_the_score_of_evaluate(tmp_path: Path) -> None:
    """Either difference makes it one of another config: its dtype, and the setting."""
    maths, plain = copy_of("maths", tmp_path / "maths"), copy_of("base", tmp_path / "plain")
    host = copy_of("base", tmp_path / "host", rope_theta=30.0)

    def over(host: Path) -> dict:
        return search_over([maths, host], host)

    assert problem_of(over(plain)).unlike_merges == ()
    assert problem_of(over(host)).unlike_merges == (str(maths),)
    bfloat16(maths)
    assert problem_of(over(plain)).unlike_merges == (str(maths),)
    run = run_over(tmp_path, over(host))
    row = row_of(run, maths)
    score = check_own_score(run, maths, row)
    assert score > row.scores("search").aggregates[KEY] + 0.3


def test_parents_with_the_settings_of_the_merge_need_no_second_model(tmp_path, monkeypatch):
    made: list[str] = []
    for owner, name in ((backend, "load"), (Resident, "__init__")):

        def counted(*args, _make=getattr(owner, name), _name=name, **more):  # type: ignore[no-untyped-def]
            made.append(_name)
            return _make(*args, **more)

        monkeypatch.setattr(owner, name, counted)
    noise = {"_name_or_path": "elsewhere", "use_cache": False, "transformers_version": "4.40.0"}
    maths = copy_of("maths", tmp_path / "maths", **noise)
    data = SMALL | {"parents": ["zoo:language", str(maths)], "budget": {"candidates": 4}}
    run = run_over(tmp_path, data)
    assert run.winner is not None and made == ["__init__", "load"]  # the base
    assert not any(item.as_itself for item in run.history.candidates)


def test_a_parent_whose_own_template_fails_is_a_failed_outcome(tmp_path: Path) -> None:
    host = copy_of("base", tmp_path / "host", PLAIN)
    broken = copy_of("maths", tmp_path / "broken", "{{ raise_exception('no chats') }}")
    none = copy_of("language", tmp_path / "none")
    run = run_over(tmp_path, search_over([broken, none], host, chat=True))
    row = row_of(run, broken)
    for split in ("validation", "test"):
        outcome = row.outcomes[split]
        assert isinstance(outcome, Failure)
        assert "cannot be scored as itself: " in outcome.reason and "no chats" in outcome.reason
    assert run.winner.number != row.number and run.winner.scores("test") is not None
