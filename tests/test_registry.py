"""What a small installed package adds by entry points is found, and searched with."""

from pathlib import Path

import pytest
from search_run import SMALL

import evomerge
from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.problem.runs import prepare
from evomerge.testing import check_optimizer
from scripts.site.__main__ import WRITTEN

MODULE = """
from evomerge.merging.kernels.passes import write_sum
from evomerge.merging.methods.method import knob, method
from evomerge.optimize import create
from evomerge.optimize.base import BaseOptimizer, Cube


@method("the first source, scaled", parents=(1, None))
def t_scaled(operands, out, *, scale=knob(1.0, 0, 2, search=(0.5, 1.5))):
    write_sum(operands.tensors[:1], [scale], out)


def t_objective(model, tokenizer, documents):
    return [1.0] * len(documents)


def t_optimizer(genes, setting, *, seeds=1, step=None):
    if step is not None:
        raise ValueError(f"no step {step}")
    return create("random", genes, setting.seed % seeds)


def t_any(genes, setting, **options):
    return t_optimizer(genes, setting, **options)


class TOld:  # written for the earlier protocol, whose `ask` takes what was recorded
    population = 1

    def __init__(self, genes, setting):
        self.inner = create("random", genes, setting.seed)

    def ask(self, recorded=None):
        return self.inner.ask() if recorded is None else self.inner.replay(recorded)

    def tell(self, genome, values, violation=0.0):
        self.inner.tell(genome, values, violation)


class TSub(BaseOptimizer):  # likewise, by the base class, and without room for more attributes
    __slots__ = ()

    def __init__(self, genes, setting):
        super().__init__(Cube(genes, setting.sigma), population=1)
        self.inner = create("random", genes, setting.seed)

    def propose(self):
        return "draw", self.cube.point(self.inner.ask())

    def learn(self, sample, point, loss):
        pass

    def ask(self, recorded=None):
        return super().ask(recorded)


class TUnfit:
    def __init__(self, genes, seed, step):
        pass
"""

ENTRY_POINTS = """
[evomerge.methods]
t_scaled = t_package:t_scaled
[evomerge.objectives]
t_objective = t_package:t_objective
[evomerge.optimizers]
t_optimizer = t_package:t_optimizer
t_any = t_package:t_any
t_old = t_package:TOld
t_sub = t_package:TSub
t_module = t_package
t_unfit = t_package:TUnfit
t_of_c = builtins:dict
"""


def checked_search(**changes):
    own = {key: value for key, value in SMALL.items() if key != "space"}
    return prepare(parse(own | changes, "search.yaml"), Path.cwd())


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package, as pip does: its files, and what is known of it."""
    (tmp_path / "t_package.py").write_text(MODULE)
    about = tmp_path / "t_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: t-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "t_optimizer",
            {"seed": 5},
            r"unknown key `seed` \(5\); allowed are seeds, step. .*'seeds'",
        ),
        (
            "t_optimizer",
            {"step": 3},
            r"options {'step': 3} \(ValueError: no step 3\); correct them",
        ),
        ("t_any", {"seed": 5}, r"options {'seed': 5} \(TypeError: .*'seed'\); correct them"),
        ("t_module", {}, r"'t_module', which cannot be made .*not callable\); correct"),
        ("t_of_c", {"seed": 5}, r"unknown key `seed` \(5\); allowed are none, so remove it"),
        ("t_of_c", {}, r"'t_of_c', which cannot be made .* got 2\); correct"),
        ("t_unfit", {}, r"'t_unfit', which cannot be made .* missing 1 .*'step'\); correct"),
    ],
)
def test_wrong_options_of_an_own_optimizer_are_told(name, options, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        checked_search(optimizer={"name": name, "options": options})
    if not options:
        with pytest.raises(ConfigError, match=sentence):
            check_optimizer(name)


@pytest.mark.usefixtures("package")
def test_the_committed_reference_has_nothing_of_an_installed_package() -> None:
    for page, text in WRITTEN.items():
        written = text()
        names = ("t_scaled", "t_optimizer", "t_any", "t_module", "t_old")
        assert not [name for name in names if f"`{name}`" in written], page


@pytest.mark.usefixtures("package")
def test_the_laws_of_an_optimizer_are_checked_by_its_name(capsys) -> None:
    check_optimizer("t_optimizer", trials=60)
    assert "all is well" in capsys.readouterr().out


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["t_old", "t_sub"])
def test_an_optimizer_whose_ask_takes_the_recorded_genome_goes_on_working(
    name: str, tmp_path: Path
) -> None:
    """Also in a search that is resumed."""
    search = {**SMALL, "optimizer": {"name": name}}
    with pytest.warns(DeprecationWarning, match=r"The optimizer T[OS]\w+ has no method `replay"):
        evomerge.search(search, tmp_path / "run", candidates=5, progress=False)
    with pytest.warns(DeprecationWarning, match=r"The optimizer T[OS]\w+ has no method `replay"):
        run = evomerge.resume(tmp_path / "run", candidates=7, progress=False)
    search["optimizer"] = {"name": "random"}
    whole = evomerge.search(search, tmp_path / "whole", candidates=7, progress=False)
    first, second = (each.history.candidates for each in (run, whole))
    assert [each.origin for each in first] == [each.origin for each in second]
