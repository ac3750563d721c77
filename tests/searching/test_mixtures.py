"""Searches over mixtures of experts that `evomerge moe` made: each expert is merged by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from killed import check_never_killed, searched
from search_run import write_search

import evomerge

PROMPTS = {"language": "emi wa kai 7 motsu .", "maths": "max has 9 stones ."}


def mixtures(folder: Path) -> dict[str, str]:
    """Make the base, and two mixtures with the experts in both orders; return name -> folder."""
    made = {}
    for name, order in (
        ("base", ("base", "base")),
        ("language", ("language", "maths")),
        ("maths", ("maths", "language")),
    ):
        experts = [
            {"source_model": f"zoo:{model}", "positive_prompts": [prompt]}
            for model, prompt in zip(order, PROMPTS.values(), strict=True)
        ]
        file = folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump({"base_model": f"zoo:{name}", "experts": experts}))
        made[name] = str(evomerge.moe(file, folder / name))
    return made


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:All experts are the same", "ignore:In . of 6 layers")
def test_a_search_over_mixtures_is_resumed_and_exported(tmp_path):
    base, *parents = mixtures(tmp_path).values()
    space = {"method": "task_arithmetic", "groups": "each", "knobs": {"weight": [0.0, 2.0]}}
    file = write_search(
        tmp_path,
        parents=parents,
        base=base,
        space={**space, "components": "each"},
        optimizer={"name": "gradient", "steps": 10},
        budget={"candidates": 5},
    )
    run = searched(file, tmp_path / "whole")
    check_never_killed(file, tmp_path / "parts", run.folder, 6)

    best = run.winner
    assert best is not None and best.number > 2
    for part in ("experts.0.w1", "experts.1.w1", "gate"):  # have weights of their own
        assert any(f"layers[3:4].{part}." in gene for gene in run.genes())
    out = run.export(tmp_path / "model")
    again = evomerge.evaluate(out, run.folder / "search.yaml", split="search")
    assert {key: item.value for key, item in again.items()} == best.scores("search").aggregates
