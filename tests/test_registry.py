"""What a small installed package adds by entry points is found, and searched with."""

from pathlib import Path

import pytest
from search_run import SMALL

import evomerge
from evomerge.config.record import Record
from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.functions import FUNCTIONS
from evomerge.merging.methods import get_method, method_names
from evomerge.optimize import optimizer_names
from evomerge.problem.runs import prepare
from evomerge.report.view import View
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.strategy.kinds import strategy_names
from evomerge.testing import check_optimizer
from scripts.site.__main__ import WRITTEN

MODULE = """
from evomerge.config.fields import Section
from evomerge.merging.kernels.passes import write_sum
from evomerge.merging.methods.method import knob, method
from evomerge.optimize import create
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.baselines import baseline_recipes
from evomerge.space.protocol import Gene
from evomerge.strategy.kinds import StrategyKind, options_of


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


class TUnfit:
    def __init__(self, genes, seed, step):
        pass


class Options(Section):
    step: float = 0.25


class Space:
    genes = (Gene("share", "real", 0.0, 1.0, 0.5),)

    def __init__(self, config, host):
        self.parents, self.max_depth = config.parents, len(host.decoder_stack)
        self.stacks = {host.decoder_stack.prefix: self.max_depth}
        nothing = Layer("", ())
        self.frame = Recipe(host.reference, {}, nothing, nothing, dtype=config.dtype)

    def decode(self, genome):
        def layer(block=None):
            weights = zip(self.parents, (1 - genome[0], genome[0]))
            return Layer("linear", tuple(Source(p, block, {"weight": w}) for p, w in weights))

        layers = {name: tuple(map(layer, range(n))) for name, n in self.stacks.items()}
        return Recipe(self.frame.host, layers, layer(), layer(), dtype=self.frame.dtype)

    def baselines(self):
        return baseline_recipes(self.parents, self.parents, self.stacks, self.frame)

    def baseline_genomes(self):
        return {}


class Steps:
    generation = left = 1

    def __init__(self, space, step):
        self.space, self.step, self.asked = space, step, 0

    def add_baseline(self, number, label):
        return {}

    def ask(self, number):
        self.asked += 1
        genome = (self.step * self.asked,)
        return self.space.decode(genome), {"genome": list(genome)}

    def repeat(self, number, label, origin):
        self.asked += label is None

    def tell(self, number, outcome):
        pass


T_STEPS = StrategyKind(
    about="equal steps from one parent to the other",
    options=Options,
    space=Space,
    check=lambda config, objectives, info: None,
    make=lambda config, space, *_: Steps(space, options_of(config, Options).step),
)
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
t_module = t_package
t_unfit = t_package:TUnfit
t_of_c = builtins:dict
[evomerge.strategies]
t_steps = t_package:T_STEPS
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
def test_an_installed_package_adds_a_method_an_optimizer_and_an_objective(tmp_path: Path) -> None:
    assert "t_scaled" in method_names() and "t_optimizer" in optimizer_names()
    space, optimizer = {"method": "t_scaled", "groups": 2}, {"name": "t_optimizer"}
    problem = checked_search(space=space, optimizer=optimizer)
    assert problem.config.space.methods == ("t_scaled",)
    assert get_method("t_scaled").knobs[0].name == "scale"
    genome = problem.config.optimizer.create(problem.config, problem.space.genes).ask()
    assert problem.space.decode(genome).head.method == "t_scaled"
    assert FUNCTIONS.get("t_objective")(None, None, [1, 2]) == [1.0, 1.0]
    config = parse(SMALL | {"objectives": [{"task": "t_objective", "metric": "score"}]}, "s.yaml")
    run = RunFolder.create(tmp_path / "run", "{}", {"made": "up"})
    view = View(run, Record(config=config), History())
    assert view.stock_command is None  # lm_eval does not know it


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
        names = ("t_scaled", "t_optimizer", "t_any", "t_module", "t_old", "t_steps")
        assert not [name for name in names if f"`{name}`" in written], page


@pytest.mark.usefixtures("package")
def test_the_laws_of_an_optimizer_are_checked_by_its_name(capsys) -> None:
    check_optimizer("t_optimizer", trials=60)
    assert "all is well" in capsys.readouterr().out


@pytest.mark.usefixtures("package")
def test_an_optimizer_whose_ask_takes_the_recorded_genome_goes_on_working(tmp_path: Path) -> None:
    """Also in a search that is resumed."""
    search = {**SMALL, "optimizer": {"name": "t_old"}}
    with pytest.warns(DeprecationWarning, match=r"The optimizer TOld has no method `replay"):
        evomerge.search(search, tmp_path / "run", candidates=5, progress=False)
    with pytest.warns(DeprecationWarning, match=r"The optimizer TOld has no method `replay"):
        run = evomerge.resume(tmp_path / "run", candidates=7, progress=False)
    search["optimizer"] = {"name": "random"}
    whole = evomerge.search(search, tmp_path / "whole", candidates=7, progress=False)
    first, second = (each.history.candidates for each in (run, whole))
    assert [each.origin for each in first] == [each.origin for each in second]


@pytest.mark.usefixtures("package")
def test_an_installed_package_adds_a_strategy_with_its_options_and_space() -> None:
    assert strategy_names()["t_steps"] == "equal steps from one parent to the other"
    wanted = {"name": "t_steps", "options": {"step": 0.125}}
    problem = checked_search(optimizer=wanted)
    strategy = problem.config.optimizer.make(problem)
    recipes = [strategy.ask(number)[0] for number in (3, 4)]
    weights = [[source.knobs["weight"] for source in it.head.sources] for it in recipes]
    assert weights == [[0.875, 0.125], [0.75, 0.25]]
    with pytest.raises(ConfigError, match=r"optimizer.options: .*`stepp`.*step"):
        checked_search(optimizer={"name": "t_steps", "options": {"stepp": 1}})
