"""A package adds one of each kind in one file; its searches are killed and go on.

For executors see tests/execute/test_plugin.py.
"""

import json
import signal
from pathlib import Path

import pytest
from search_run import events_of, kill_when, searched, write_search

from evomerge import resume
from evomerge.__main__ import run as call
from evomerge.errors import ConfigError
from evomerge.execute.worker import Worker
from evomerge.problem import runs

MODULE = '''
from evomerge.config.fields import Section
from evomerge.evaluation.tasks.rows import VALUES, RowsObjective
from evomerge.merging.kernels.passes import write_sum
from evomerge.merging.methods.method import knob, method
from evomerge.optimize import create
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.baselines import baseline_recipes
from evomerge.space.protocol import Gene
from evomerge.strategy.kinds import StrategyKind, options_of


@method("a sum that is shrunk", parents=(1, None))
def p_shrunk(operands, out, *, weight=knob(1.0, 0, 2, per="source"), shrink=knob(1.0, 0.5, 1)):
    write_sum(operands.tensors, [shrink * each for each in weight], out)


def p_draws(genes, setting, *, stride=1):
    """An optimizer: every n-th draw of random search."""
    return Draws(create("random", genes, setting.seed), stride)


class Draws:
    population = 1

    def __init__(self, inner, stride):
        self.inner, self.stride = inner, stride

    def ask(self):
        return [self.inner.ask() for _ in range(self.stride)][-1]

    def replay(self, genome):
        return self.ask()

    def tell(self, genome, values, violation=0.0):
        pass


class Repeats(RowsObjective):
    """How many different letters a model writes after the prompt of each row."""

    metrics = ("letters",)
    needed = compared = ("prompt",)
    columns = dict.fromkeys(needed, VALUES.text)
    row_text = '{"prompt": "..."}'

    def measure(self, model, tokenizer, documents):
        letters = []
        for document in documents:
            tokens = tokenizer(self.rows[document]["prompt"], return_tensors="pt")
            written = model.generate(**tokens.to(model.device), max_new_tokens=6, do_sample=False)
            letters.append(float(len(set(tokenizer.decode(written[0])))))
        return {"letters": letters}

    def words(self, merges):
        return {"letters": "counted after each prompt"}


class Options(Section):
    step: float = 0.25


class Line:
    """A space: the way from one parent to the other."""

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


P_STEPS = StrategyKind(
    about="equal steps from one parent to the other",
    options=Options,
    space=Line,
    check=lambda config, objectives, info: None,
    make=lambda config, space, *_: Steps(space, options_of(config, Options).step),
)
'''

ENTRY_POINTS = """
[evomerge.methods]
p_shrunk = p_package:p_shrunk
[evomerge.optimizers]
p_draws = p_package:p_draws
[evomerge.objectives]
p_repeats = p_package:Repeats
[evomerge.strategies]
p_steps = p_package:P_STEPS
"""

OWN = {
    "parents": ["zoo:language", "zoo:maths"],
    "base": None,
    "objectives": [{"kind": "p_repeats", "file": "rows.jsonl", "metric": "letters"}],
    "evaluation": {
        "search": {"documents": 6},
        "validation": {"documents": 4, "finalists": 1},
        "test": {"documents": 4},
    },
    "budget": {"candidates": 9},
}
SEARCHES = {
    "a method, an optimizer and a kind of objective": (
        {
            "space": {"method": "p_shrunk", "knobs": {"shrink": [0.5, 1.0], "weight": [0.0, 1.0]}},
            "optimizer": {"name": "p_draws", "options": {"stride": 2}},
        },
        {"methods": "a sum that is shrunk", "optimizers": "p_draws"},
        ["p_draws", "p_repeats", "counted after each prompt", "shrink"],
        ["p_shrunk", "p_draws", "p_repeats"],
        ["p_shrunk", "p_draws", "letters"],
    ),
    "a strategy": (
        {"space": {}, "optimizer": {"name": "p_steps", "options": {"step": 0.125}}},
        {"optimizers": "equal steps from one parent to the other"},
        ["p_steps"],
        ["p_steps"],
        ["p_steps"],
    ),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows, where the package is installed."""
    (tmp_path / "p_package.py").write_text(MODULE)
    about = tmp_path / "p_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: p-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    rows = ({"prompt": f"tom has {n} apples . he"} for n in range(2, 20))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


@pytest.mark.thorough
@pytest.mark.parametrize("case", SEARCHES)
def test_a_package_adds_a_kind_whose_search_is_killed_and_resumed(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
):
    changes, listed, validated, in_schema, reported = SEARCHES[case]
    file, whole, run = write_search(folder, **(OWN | changes)), folder / "whole", folder / "run"

    def said(*arguments: object) -> str:
        call([str(argument) for argument in arguments])
        return capsys.readouterr().out

    for what, line in listed.items():
        assert line in said("list", what)
    schema = said("schema")
    assert [name for name in in_schema if f'"{name}"' not in schema] == []
    facts = said("validate", file, "--trust-code")
    assert [words for words in validated if words not in facts] == []

    begun, installed = ["search", file, "--run", run], {"PYTHONPATH": str(folder)}
    assert kill_when(begun, run / "journal.jsonl", 14, 0.0, **installed) == -signal.SIGKILL
    resume(run, progress=False)
    searched(file, whole, trust_code=True)
    assert events_of(run) == events_of(whole)
    said("report", run)
    page = (run / "report.html").read_text()
    assert [words for words in reported if words not in page] == []


def test_an_unknown_option_of_a_strategy_is_named(folder: Path) -> None:
    optimizer = {"name": "p_steps", "options": {"stepp": 1}}
    file = write_search(folder, **(OWN | {"space": {}, "optimizer": optimizer}))
    with pytest.raises(ConfigError, match=r"optimizer.options: .*`stepp`.*step"):
        call(["validate", str(file), "--trust-code"])


def test_imports_that_earlier_releases_showed_work():
    with pytest.warns(DeprecationWarning, match=r"evomerge\.setup is gone"):
        from evomerge.setup.runs import prepare
    from evomerge.setup.worker import make_worker

    assert prepare is runs.prepare and make_worker is Worker
