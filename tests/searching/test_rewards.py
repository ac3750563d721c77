"""Searches by a reward model: killed and resumed, on many workers, exported, and repeated."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
import yaml
from killed import check_never_killed, searched
from rounding import NATS
from safetensors.torch import load_file
from search_run import events_of
from search_run import evomerge as evomerge_command

import evomerge
from evomerge.config.schema import load
from evomerge.errors import ConfigError, InputError
from evomerge.report.words import size_text
from evomerge.setup.runs import prepare

TEMPLATE = (
    "{% for m in messages %}{{ 'w1' if m.role == 'user' else 'w2' }} {{ m.content }} "
    "{% endfor %}{% if add_generation_prompt %}w2 {% endif %}"
)


def words(*numbers: int) -> str:
    return " ".join(f"w{number % 44}" for number in numbers)


def row(i: int) -> dict[str, Any]:
    text = words(*(i * j for j in range(1, 2 + i % 5)), i // 7)
    if i % 3:
        return {"prompt": text}
    return {"messages": [{"role": "user", "content": text}]}


ROWS = [row(i) for i in range(50)]
REWARD = {"reward": "judge", "prompts": "prompts.jsonl", "max_gen_toks": 8, "until": ["w7"]}

SEARCH: dict[str, Any] = {
    "seed": 1,
    "parents": ["one", "two"],
    "dtype": "float32",
    "space": {"kind": "parameters", "method": "linear", "groups": 2, "knobs": {"weight": [0, 1.5]}},
    "optimizer": {"name": "cma"},
    "objectives": [REWARD],
    "evaluation": {
        "chat_template": True,
        "search": {"documents": 15},
        "validation": {"documents": 10, "finalists": 2},
        "test": {"documents": 15},
    },
    "budget": {"candidates": 8},
}


def write(folder: Path, name: str = "search.yaml", **changes: Any) -> Path:
    (folder / name).write_text(yaml.safe_dump(SEARCH | changes))
    return folder / name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two parents, reward models with and without a chat template, prompts, and a search file."""
    folder = tmp_path_factory.mktemp("rewards")
    one = tiny.make(folder / "one", "llama")
    tiny.make(folder / "two", "llama", seed=1, near=one)
    for name in ("one", "two"):
        (folder / name / "chat_template.jinja").write_text(TEMPLATE)
    tiny.make_classifier(folder / "judge", "llama", ["score"], template=TEMPLATE)
    tiny.make_classifier(folder / "plain", "bert", ["score"], seed=3)
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    texts = [{"prompt": words(i, i // 7)} for i in range(50)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)))
    write(folder)
    return folder


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> evomerge.Run:
    return searched(folder / "search.yaml", folder / "run")


@pytest.mark.thorough
def test_killed_and_resumed_is_never_killed(
    folder: Path, unbroken: evomerge.Run, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    check_never_killed(folder / "search.yaml", run, unbroken.folder, 5)


@pytest.mark.thorough
def test_two_workers_give_the_same_bits(
    folder: Path, unbroken: evomerge.Run, tmp_path: Path
) -> None:
    file = write(folder, "two.yaml", executor={"kind": "processes", "workers": 2})
    searched(file, tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(unbroken.folder)


@torch.no_grad()
def by_library(model_folder: Path, judge_folder: Path, rows: list[dict[str, Any]]) -> list[float]:
    """Return the rewards of rows, one by one, with transformers only."""
    model_of: Any = transformers.AutoModelForCausalLM.from_pretrained
    model, tokenizer = (
        model_of(model_folder),
        transformers.AutoTokenizer.from_pretrained(model_folder),
    )
    model_of = transformers.AutoModelForSequenceClassification.from_pretrained
    judge, its_tokenizer = (
        model_of(judge_folder),
        transformers.AutoTokenizer.from_pretrained(judge_folder),
    )
    found = []
    for row in rows:
        chat = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        new = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)[
            0, ids.shape[1] :
        ]
        answer = tokenizer.decode(new, skip_special_tokens=True).split("w7")[0]
        whole = [*chat, {"role": "assistant", "content": answer}]
        judged = its_tokenizer(
            its_tokenizer.apply_chat_template(whole, tokenize=False), return_tensors="pt"
        )
        found.append(float(judge(judged["input_ids"]).logits[0, 0]))
    return found


def test_the_export_has_the_recorded_score_in_the_library(
    folder: Path, unbroken: evomerge.Run, tmp_path: Path
) -> None:
    out, best = unbroken.export(tmp_path / "model"), unbroken.winner
    assert best is not None
    recorded = best.scores("test")
    assert recorded is not None
    again = evomerge.evaluate(out, unbroken.folder / "search.yaml")
    assert {key: item.value for key, item in again.items()} == recorded.aggregates
    assert again["reward prompts/reward"].has_interval
    rows = [ROWS[i] for i in recorded.documents["reward prompts"]]
    theirs = by_library(out, folder / "judge", rows)
    assert recorded.values["reward prompts/reward"] == pytest.approx(theirs, abs=NATS)
    assert len({round(value, 4) for value in theirs}) > 10 and min(theirs) < 0


def test_rewards_below_0_are_no_shares(unbroken: evomerge.Run) -> None:
    printed = evomerge_command("results", unbroken.folder).stdout
    lowest = min(item.fitness or 0.0 for item in unbroken.history.candidates)
    assert lowest < 0 and f"\t{lowest:.4}"[:7] in printed and "in %" not in printed


def test_a_changed_reward_model_stops_a_resume(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "all", ignore=shutil.ignore_patterns("run*"))
    file, run = tmp_path / "all" / "search.yaml", tmp_path / "all" / "run"
    searched(file, run, candidates=3)

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["score.weight"][0, 0] += 1

    tiny.rewrite(tmp_path / "all" / "judge", change)
    with pytest.raises(ConfigError) as caught:
        evomerge.resume(run, candidates=5)
    assert str(caught.value) == (
        "Task 'reward prompts' has changed since the run began: its reward model's files are not "
        "the same; restore its files, or start a new run."
    )


def test_a_reward_model_without_a_template_reads_pairs_and_tokens_can_be_bounded(
    folder: Path, tmp_path: Path
) -> None:
    wanted = {"reward": "plain", "prompts": "texts.jsonl", "max_gen_toks": 5}
    file = write(
        folder,
        "plain.yaml",
        objectives=[wanted],
        constraints=[{**wanted, "metric": "tokens", "at_most": 4.5}],
        evaluation=SEARCH["evaluation"] | {"chat_template": False},
        budget={"candidates": 4},
    )
    told = evomerge.validate(file)
    size = sum(item.nbytes for item in load_file(folder / "plain" / "model.safetensors").values())
    assert told["memory"]["reward models"] == size_text(size)
    assert not any("right answers" in line for line in told["warnings"])
    run = searched(file, tmp_path / "run")
    best = run.winner
    assert best is not None
    scores = best.scores("search")
    assert scores is not None
    assert set(scores.of_task("reward texts")) == {"reward", "tokens"}
    assert 0 < scores.aggregates["reward texts/tokens"] <= 5
    shown = evomerge_command("evaluate", folder / "one", "--config", file, "--show", 2).stdout
    assert shown.count("reward texts") >= 3 and shown.count("answer: ") == 2
    assert "target" not in shown  # there is none


def test_a_reward_model_must_fit_beside_the_weights(folder: Path) -> None:
    config = load(folder / "search.yaml")
    with pytest.raises(ConfigError, match=r"of 50 kB beside reward models of 26.6 kB; set it to"):
        prepare(config, folder, gpu_memory=50_000)
    prepare(config, folder, gpu_memory=80_000)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no such model": ({"reward": "gone"}, "the reward model cannot be used: Parent 'gone' is not"),
    "two outputs": (
        {"reward": "moods"},
        "has 2 outputs (bad, good), and a reward is one number; give a model with one output",
    ),
    "no head": (
        {"reward": "one"},
        "has no head that scores texts (config.json: architectures LlamaForCausalLM)",
    ),
    "no file": ({"prompts": "gone.jsonl"}, "there is no file 'gone.jsonl'"),
    "an empty file": ({"prompts": "empty.jsonl"}, "has no row to score on; write lines like"),
    "a column": ({"prompts": "wrong.jsonl"}, "no `prompt` and no `messages`; a row of prompts is"),
    "both columns": ({"prompts": "both.jsonl"}, "both a `prompt` and `messages`; a row of"),
    "no prompts": ({"prompts": None}, "has the `reward` judge without `prompts`; name a file"),
    "a file too": (
        {"file": "texts.jsonl"},
        "has the `reward` judge with `file`, which has no meaning there",
    ),
    "a task too": ({"task": "x"}, "has the `task` 'x' and the `reward` judge; remove one"),
    "no reward": (
        {"reward": None, "task": "x", "metric": "acc"},
        "has `prompts` 'prompts.jsonl' without a `reward`",
    ),
    "a metric": (
        {"metric": "nll"},
        "task 'reward prompts' has no metric 'nll'; it has reward, tokens",
    ),
    "a long prompt": (
        {"prompts": "long.jsonl"},
        "has 70 tokens, and the reward model",
    ),
    "messages without a template": (
        {"reward": "plain"},
        "row 1 of reward prompts has messages that the tokenizer of",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_objective_is_one_sentence(folder: Path, case: str) -> None:
    files = {
        "empty": [],
        "wrong": [{"promt": "w1"}],
        "both": [{"prompt": "w1", "messages": [{"role": "user", "content": "w1"}]}],
        "long": [{"prompt": words(*range(67), i)} for i in range(50)],
    }
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if not (folder / "moods").exists():
        tiny.make_classifier(folder / "moods", "llama", ["bad", "good"])
    changes, expected = REFUSED[case]
    item = {key: value for key, value in (REWARD | changes).items() if value is not None}
    with pytest.raises(ConfigError) as caught:
        evomerge.validate(write(folder, "refused.yaml", objectives=[item]))
    assert expected in str(caught.value)


def test_what_else_does_not_go_with_rewards(folder: Path) -> None:
    refused = {
        "has messages, which a chat template": {
            "evaluation": SEARCH["evaluation"] | {"chat_template": False}
        },
        "has no reference answers to learn from": {"optimizer": {"name": "gradient"}},
        "with two reward models or two ways": {
            "constraints": [{**REWARD, "max_gen_toks": 9, "at_least": 0}]
        },
        "is no causal language model": {"parents": ["plain"]},
    }
    for expected, changes in refused.items():
        with pytest.raises(InputError) as caught:
            evomerge.validate(write(folder, "refused.yaml", **changes))
        assert expected.replace("has messages", "has `messages`") in str(caught.value)
