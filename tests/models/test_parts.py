"""A kind of part is one class: what is asked about parts is asked about a new one, too."""

import re
from pathlib import Path

import pytest
from search_run import problem_of, search_over
from tiny import copy_of

import evomerge
from evomerge.errors import CheckpointError
from evomerge.models import parts
from evomerge.models.part import Part
from evomerge.problem.preflight import summary, warnings


class Seal(Part):
    """A made-up part: a file in the folder of a model."""

    lent = "seal"

    def names(self, model):
        file = model.folder / "seal.txt"
        return {"seal": (file.read_text(),)} if file.is_file() else {}

    def kind(self, model):
        return "sealed model" if self.names(model) else None

    def fit(self, host, parent):
        if self.names(parent) and not self.names(host):
            raise CheckpointError(f"Only {parent.reference!r} has a seal.")
        return parent

    def facts(self, parents):
        return {"seal": "the host's" if self.names(parents.model) else None}

    def differences(self, one, other):
        return [] if self.names(one) == self.names(other) else ["seal"]


def test_a_search_knows_a_part_that_is_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PARTS", (*parts.PARTS, Seal()))
    sealed, plain = copy_of("maths", tmp_path / "sealed"), copy_of("facts", tmp_path / "plain")
    (sealed / "seal.txt").write_text("by me")
    problem = problem_of(search_over([sealed, plain], sealed))
    facts = summary(problem)
    assert facts["seal"] == "the host's"
    assert [*facts["kinds"].values()] == ["sealed model", "causal language model"]
    assert any(
        "the seal of the host sealed takes its place" in it for it in warnings(problem, True)
    )
    one, other = problem.checkpoints.values()
    assert parts.parts_of(one) - parts.parts_of(other) == {"seal"}
    assert parts.part_differences(one, other, {"seal"}) == ["seal"]
    with pytest.raises(CheckpointError, match=r"sealed.*has a seal"):
        problem_of(search_over([sealed, plain], plain))


def test_few_files_name_a_kind_of_part():
    """Besides the parts' own room: what builds them, and the objectives that need them."""
    package = Path(evomerge.__file__).parent
    named = re.compile(r"evomerge\.models\.(heads|modules) import")
    files = [file for file in package.rglob("*.py") if named.search(file.read_text())]
    assert {str(it.relative_to(package)) for it in files if it.parent.name != "models"} == {
        "merging/architecture/attach.py",
        "evaluation/objectives.py",
        "evaluation/tasks/classifiers.py",
        "evaluation/tasks/encoders.py",
        "evaluation/tasks/rerank.py",
    }
