"""Which functions of tasks may run text as code, and what a stranger may change for them."""

from pathlib import Path

import lm_eval
import pytest

from evomerge.compat.lm_eval import CLEARED, Entry
from evomerge.trust.task_code import find_evaluation, list_uses, registered_metrics
from evomerge.trust.task_files import find_change, find_leaves, read_chain

LM_EVAL = Path(lm_eval.__path__[0])
TASKS = LM_EVAL / "tasks"


@pytest.mark.parametrize(
    "text",
    [
        "def f(doc): return eval(doc['x'])",
        "def f(docs): return docs.map(eval)",
        "from builtins import eval as harmless",
        "import os\ndef f(doc): os.system(doc['x'])",
        "from os import popen as p",
        "import os as o\no.execvp('sh', [])",
        "import subprocess",
        "from subprocess import run",
        "import pickle",
        "import importlib",
        "from importlib import import_module",
        "import torch\ntorch.load('x')",
        "import numpy\nnumpy.load('x', allow_pickle=True)",
        "import sympy",
        "from sympy.parsing.sympy_parser import parse_expr",
        "import math_verify",
        "import evaluate\nevaluate.load('code_eval')",
        "import pandas\npandas.eval('x')",
        "def f(doc): return getattr(f, doc['x'])",
        "def f(doc): return getattr(f, '__globals__')",
        "f = ().__class__.__base__.__subclasses__()",
        "from lm_eval.tasks.cruxeval import utils",
        "import lm_eval.tasks.score.math.math_grader",
        "from . import beside",
        "import a_library_that_nobody_knows",
        "def f(: pass",
        "\0",
    ],
)
def test_what_may_run_text_is_named(tmp_path, text):
    file = tmp_path / "own.py"
    file.write_text(text)
    assert find_evaluation(file)
    file.write_text("import os\n")  # it is read again
    assert find_evaluation(file) is None


def test_what_runs_no_text_needs_no_consent(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "import ast, json, os.path, re\n"
        "import datasets, evaluate, numpy as np\n"
        "from importlib.metadata import version\n"
        "from lm_eval.api.metrics import mean\n"
        "from lm_eval.tasks.hendrycks_math.utils import is_equiv\n"
        "def f(doc, results):\n"
        "    score = evaluate.load('rouge')\n"
        "    pattern = re.compile(doc['x'])\n"
        "    return {'x': ast.literal_eval(doc['y']), 'z': getattr(doc, 'z', None)}\n"
    )
    assert find_evaluation(file) is None
    assert find_evaluation(tmp_path / "nowhere.py") == f"{tmp_path}/nowhere.py cannot be read"


RUNS = [
    *("cruxeval/utils", "humaneval/utils", "leaderboard/math/utils", "longproc/metrics"),
    *("mbpp/utils", "minerva_math/utils", "putnam_axiom/utils", "score/math/utils_math"),
]
RUNS_NONE = [
    *("bbh/zeroshot/utils", "coqa/utils", "drop/utils", "hellaswag/utils", "hendrycks_math/utils"),
    *("ifeval/utils", "leaderboard/ifeval/utils", "leaderboard/musr/utils"),
    *("mmlu_pro/utils", "squadv2/task", "truthfulqa/utils", "wikitext/preprocess_wikitext"),
]


@pytest.mark.parametrize("name", [*RUNS, *RUNS_NONE])
def test_tasks_of_lm_eval_that_run_text_are_known(name):
    file = TASKS / f"{name}.py"
    if not file.is_file():
        pytest.skip(f"this version of lm-eval has no {name}")
    assert bool(find_evaluation(file)) == (name in RUNS)


@pytest.mark.parametrize("name", CLEARED)
def test_whatever_is_cleared_is_there(name):
    """Else the exception would wait for something that nobody has looked at."""
    assert CLEARED[name].keys() <= set(list_uses(LM_EVAL / name))
    assert find_evaluation(LM_EVAL / name) is None


def test_the_metrics_are_those_of_lm_eval():
    from lm_eval.api import metrics, registry

    assert metrics and registered_metrics() == set(registry.metric_registry.keys())


HELLASWAG = TASKS / "hellaswag" / "hellaswag.yaml"
HUMANEVAL = TASKS / "humaneval" / "humaneval.yaml"
CRUXEVAL = TASKS / "cruxeval" / "cruxeval_output.yaml"


def change(folder, text, include=HELLASWAG, changed=()):
    file = folder / "own.yaml"
    file.write_text(f"include: {include}\ntask: own\n{text}\n")
    return find_change(read_chain(file), changed)


@pytest.mark.parametrize("key", ["dataset_path", "filter_list", "doc_to_text", "unsafe_code"])
def test_a_stranger_changes_nothing_that_an_installed_function_reads(tmp_path, key):
    assert change(tmp_path, f"{key}: x") == key
    assert change(tmp_path, "", changed=[key]) == key
    assert change(tmp_path, f"{key}: x", include=TASKS / "gsm8k" / "gsm8k.yaml") is None


def test_names_and_versions_change_nothing(tmp_path):
    text = "task_alias: x\ntag: y\nnum_fewshot: 2\nmetadata: {version: 1}"
    assert change(tmp_path, text) is change(tmp_path, text, CRUXEVAL) is None
    assert change(tmp_path, "metadata: {version: 1, pretrained: x}") == "metadata"


@pytest.mark.parametrize("key", ["test_split", "generation_kwargs", "description"])
def test_own_documents_may_be_chosen_unless_they_are_run(tmp_path, key):
    assert change(tmp_path, f"{key}: x") is None
    assert change(tmp_path, f"{key}: x", CRUXEVAL) == key
    assert find_change(read_chain(CRUXEVAL), [key]) == key
    assert find_change(read_chain(CRUXEVAL)) is None


def test_a_group_changes_tasks_by_their_names(tmp_path):
    group = tmp_path / "group.yaml"
    index = {
        "cruxeval_output": Entry(CRUXEVAL, ()),
        "coding": Entry(None, ("cruxeval_output", "lost")),
        "own": Entry(group, ()),
        "outer": Entry(TASKS / "mmlu" / "default" / "_mmlu.yaml", ()),
    }
    for text, changed in {
        "task: [cruxeval_output]": set(),
        "task: [coding]\ndataset_path: json": {"dataset_path"},
        "task: [{task: coding, repeats: 1}]": {"repeats"},
        "task: [{group: x, task: [{task: cruxeval_output, repeats: 1}]}]": {"repeats"},
        "fewshot_split: a\ntask: [{group: x, repeats: 1, task: [cruxeval_output]}]": {
            *("fewshot_split", "repeats"),
        },
        "x: &x {repeats: 1}\ntask: [{<<: *x, task: cruxeval_output}]": {"repeats"},
        "task: [own, cruxeval_output]": set(),
    }.items():
        group.write_text(f"group: own\n{text}\n")
        leaves = [leaf for leaf in find_leaves(index, "own") if leaf.name == "cruxeval_output"]
        assert set().union(*(leaf.changed for leaf in leaves)) - {"x"} == changed, text
        assert all(leaf.groups[0] == group for leaf in leaves) and leaves


def test_what_stands_in_the_working_folder_for_the_hub_is_noticed(tmp_path, monkeypatch):
    """`datasets` and `evaluate` look there before they ask the Hub."""
    monkeypatch.chdir(tmp_path)
    chain = [*read_chain(CRUXEVAL), *read_chain(HELLASWAG), *read_chain(HUMANEVAL)]

    def found(evaluates):
        return {str(path) for file in chain if (path := file.find_stand_in(evaluates))}

    assert found(True) == found(False) == set()
    (tmp_path / "openai" / "openai_humaneval").mkdir(parents=True)
    assert (found(True), found(False)) == ({"openai/openai_humaneval"}, set())
    (tmp_path / "openai" / "openai_humaneval" / "openai_humaneval.py").touch()
    assert found(False) == {"openai/openai_humaneval"}
    (tmp_path / "code_eval").mkdir()
    (tmp_path / "code_eval" / "code_eval.py").touch()
    assert "code_eval/code_eval.py" in found(False)
