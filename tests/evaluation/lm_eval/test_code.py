"""Tasks that run code which the model writes: lm-eval's own HumanEval and CRUXEval."""

import gc
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import lm_eval
import psutil
import pytest
import yaml
from draws import few
from lm_eval.api.model import LM
from search_run import ended, start

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluation.lm_eval import code
from evomerge.evaluation.lm_eval.confined import namespaces
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.trust.code import Permissions

pytestmark = pytest.mark.thorough

LM_EVAL = lm_eval.__path__[0]
ALLOWED = Permissions(allow_code=True, trust_code=True)

PROMPT = 'def add(a, b):\n    """Return the sum."""\n'
HUMANEVAL = [
    {
        "task_id": f"Own/{number}",
        "prompt": PROMPT,
        "test": f"def check(candidate):\n    assert candidate({number}, 3) == {number + 3}\n",
        "entry_point": "add",
    }
    for number in range(8)
]
ADDS, MULTIPLIES, BROKEN = "    return a + b\n", "    return a * b\n", "    return a +\n"
BODIES = [
    *(ADDS, MULTIPLIES, "    raise SystemExit\n", "    import os; os._exit(0)\n", BROKEN),
    "    import numpy, math; return int(numpy.add(a, b))\n",
    *("    import os; os.getcwd()\n", "    print('said'); return sum([a, b])\n"),
]
CRUXEVAL = [{"id": "0", "code": "def f(n):\n    return n + 1", "input": "4", "output": "5"}] * 3
MATHS = [{"problem": f"2 + {n}", "solution": f"\\boxed{{{2 + n}}}"} for n in range(4)]


def write(folder, name, documents, include=None, **body):
    """Write a task that differs from one of lm-eval's in its documents, which are in a file."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(item) + "\n" for item in documents))
    data = {"dataset_kwargs": {"data_files": {"test": str(file)}}, "dataset_name": None}
    own = {"task": name, "dataset_path": "json", **data, **body}
    own |= {"include": f"{LM_EVAL}/tasks/{include}"} if include else {}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(own))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    write(folder, "add", HUMANEVAL, "humaneval/humaneval.yaml")
    write(folder, "add_often", HUMANEVAL[:2], "humaneval/humaneval_64.yaml", repeats=4)
    write(folder, "next", CRUXEVAL, "cruxeval/cruxeval_output.yaml", repeats=3)
    for name, kind in (("formulas", "non_greedy"), ("prompts", "prompt")):
        include = f"score/math/{kind}_robustness_math_algebra.yaml"
        write(folder, name, MATHS[: 4 if name == "formulas" else 1], include)
    write(folder, "minerva", MATHS, "minerva_math/minerva_math_algebra.yaml")
    return folder


ANSWERS = {
    "add": [[body] for body in BODIES],
    "add_often": [[ADDS, MULTIPLIES, BROKEN, ADDS], [MULTIPLIES] * 4],
    "next": [["5"] * 2 + ["6"], ["assert f(4) == 5"] * 3, ["x"] * 3],
    "minerva": [
        ["Final Answer: The final answer is $1+1$. I hope it is correct."],
        *(["so \\boxed{3}"], ["Final Answer: The final answer is $x$. I hope"], ["five"]),
    ],
    # Its aggregation evaluates the answers.
    "formulas": [["\\boxed{1+1}"], ["\\boxed{3}"], ["\\boxed{x}"], ["five"]],
    "prompts": [[f"\\boxed{{{text}}}"] for text in ("2", "1+1", "3", "x", *["2"] * 6)],
}


class Scripted(LM):
    """A model of lm-eval that gives known answers."""

    def __init__(self, answers):
        super().__init__()
        self.answers = [list(of) for of in answers]

    def generate_until(self, requests, disable_tqdm=False):
        return [self.answers[request.doc_id].pop(0) for request in requests]

    loglikelihood = loglikelihood_rolling = None


METRIC = """
import os
from types import SimpleNamespace

from lm_eval.tasks.cruxeval import utils


def compute(references, predictions, k):
    if os.environ.get("HF_ALLOW_CODE_EVAL") != "1":
        raise ValueError("set HF_ALLOW_CODE_EVAL=1 to run code_eval")
    pairs = zip(predictions, references, strict=True)
    programs = [[f"{answer}\\n{test}" for answer in answers] for answers, test in pairs]
    possible = [size for size in k if all(size <= len(answers) for answers in predictions)]
    return utils.pass_at_k(references, programs, possible), {}


def load(path):
    assert path == "code_eval"
    return SimpleNamespace(compute=compute)
"""


@pytest.fixture(scope="module")
def harness(folder, tmp_path_factory):
    """A harness of all of them; Hugging Face's own `evaluate` would download a script."""
    place = tmp_path_factory.mktemp("metric")
    (place / "evaluate.py").write_text(METRIC)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place)
        patch.delitem(sys.modules, "evaluate", raising=False)
        for module in [known for known in sys.modules if known.endswith("humaneval.utils")]:
            patch.delitem(sys.modules, module)  # lm-eval keeps them, with the metric
        patch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
        yield Harness(list(ANSWERS), [folder], allowed=ALLOWED)


def stock(by_lm_eval, monkeypatch, folder, name):
    """Return each document's metrics and the aggregates as lm-eval itself gives them."""
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")
    found = by_lm_eval(Scripted(ANSWERS[name]), folder, [name], confirm_run_unsafe_code=True)
    rows = sorted(found["samples"][name], key=lambda row: row["doc_id"])
    results = found["results"][name].items()
    named = ((key, value) for key, value in results if "," in key and "stderr" not in key)
    aggregates = {key.split(",")[0]: value for key, value in named}
    return [{key: row[key] for key in aggregates if key in row} for row in rows], aggregates


def harness_of(names, folder):
    return Harness(names, [folder], allowed=ALLOWED)


def measure(harness, name, answers):
    reference = SimpleNamespace(chat_template=None, tokenizer_name="")
    documents = harness.build(name, range(len(answers)), reference)
    for requests, of_document in zip(documents, answers, strict=True):
        requests[0].resps = list(of_document)
    return harness.measure(name, documents)


@pytest.mark.parametrize("name", few(ANSWERS, ("add", "next", "formulas", "minerva")))
def test_scores_of_lm_evals_code_tasks_are_those_of_lm_eval(
    by_lm_eval, folder, harness, monkeypatch, name
):
    assert "HF_ALLOW_CODE_EVAL" not in os.environ
    rows = measure(harness, name, ANSWERS[name])
    expected, aggregates = stock(by_lm_eval, monkeypatch, folder, name)
    _, scores = harness.summary(name, rows)
    assert scores == pytest.approx(aggregates)
    for row, own in zip(rows, expected, strict=True):
        own = {key: json.loads(json.dumps(value)) for key, value in own.items()}
        assert row == (own if name in ("formulas", "prompts") else pytest.approx(own))
    assert len({json.dumps(row) for row in rows}) > 1
    if name != "prompts":  # the first document has the metrics of its own prompt
        assert set(harness.info.tasks[name].metrics) == {*aggregates, "nll", "tokens"}


def test_metrics_that_cannot_be_aggregated_fail_the_candidate(harness):
    with pytest.raises(CandidateError, match="'formulas' cannot be aggregated"):
        harness.summary("formulas", [{"non_greedy_accuracy": 0.0}])


CHECKS = """
def run(doc, results):
    told = {}
    exec(results[0], told)
    return {"right": float(told["x"] == doc["a"]), "wrong": float(told["x"] != doc["a"])}


def turned(resps, docs):
    return [[eval(text) for text in of_document] for of_document in resps]


def said(doc, results):
    return {"accuracy": float(results[0]), "size": float(results[0])}
"""
RELATIVE = {"data_files": {"test": "relative.jsonl"}}

EXECUTED = {
    "unsafe_code": True,
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_target": "{{a}}",
    "process_results": "!function checks.run",
    "metric_list": [
        {"metric": name, "aggregation": "mean", "higher_is_better": name == "right"}
        for name in ("right", "wrong")
    ],
}


def write_executed(folder, name="executed", documents=12, **changes):
    """Write a task whose own functions execute answers in the process in which they are called."""
    (folder / "checks.py").write_text(CHECKS)
    write(folder, name, [{"q": f"w{i}", "a": i} for i in range(documents)], **EXECUTED | changes)
    file = folder / f"{name}.yaml"
    file.write_text(re.sub(r"'(!function [\w.]+)'", r"\1", file.read_text()))
    return name


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A harness of such tasks with one process that scores them, since it takes seconds to start.

    One has a filter, one gives impossible values, and one has data in the working folder.
    """
    folder = tmp_path_factory.mktemp("executed")
    own = {"function": "custom", "filter_fn": "!function checks.turned"}
    filters = [{"name": "own", "filter": [own, {"function": "take_first"}]}]
    kind = {"aggregation": "mean", "higher_is_better": True}
    metrics = [{"metric": name, **kind} for name in ("accuracy", "size")]
    said = {"process_results": "!function checks.said", "metric_list": metrics}
    names = [
        write_executed(folder),
        write_executed(folder, "filtered", filter_list=filters),
        write_executed(folder, "impossible", **said),
        write_executed(folder, "relative", dataset_kwargs=RELATIVE),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return harness_of(names, folder)


RIGHT, WRONG = {"right": 1.0, "wrong": 0.0}, {"right": 0.0, "wrong": 1.0}


HARMFUL = {
    "ends its process": "import os; os._exit(0)",
    "raises SystemExit": "raise SystemExit",
    "kills its process": "import os; os.kill(os.getpid(), 9)",
    "ends the process that watches it": "import os; os.kill(os.getppid(), 9)",
    "eats memory": "x = [0] * (1 << 40 - 3)",
    "eats memory bit by bit": "x = []\nwhile True: x.append(bytes(1 << 20))",
    "fills the disk": "open('f', 'wb').write(bytes(1 << 27)); x = 7",
    "is no program": "x =",
    "hangs": "while True: pass",
    "sleeps in a child": "import os, time\nos.fork()\ntime.sleep(600)",
    "replaces what scores it": "import builtins\nbuiltins.float = str\nx = -1",
    "looks for a token": "import os\nx = 12 if os.getenv('HF_TOKEN') else -1",
    "writes a score into all open files": """
import json, os
for descriptor in range(3, 1000):
    try: os.write(descriptor, json.dumps([{"right": 1e9, "wrong": 0.0}, []]).encode())
    except OSError: pass
os._exit(0)""",
    "writes a score into a file": """
import json
open(".outcome", "w").write(json.dumps([{"right": 1e9, "wrong": 0.0}, []]))
raise SystemExit""",
}


def test_a_harmful_answer_is_one_wrong_document_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(code, "SECONDS", 4)
    monkeypatch.setattr(code, "SECONDS_MORE", 1)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    before = psutil.Process().children(recursive=True)  # of other tests
    answers = ["x = 0", *HARMFUL.values(), f"x = {len(HARMFUL) + 1}"]
    name = write_executed(tmp_path, documents=len(answers))
    harness = Harness([name], [tmp_path], allowed=ALLOWED)
    rows = measure(harness, name, [[text] for text in answers])
    right = [place for place, row in enumerate(rows) if row == RIGHT]
    assert right == [0, len(answers) - 1]
    assert all(row == WRONG for row in rows[1:-1])
    assert measure(harness, name, [["x = 0"]]) == [RIGHT]
    del harness
    gc.collect()
    assert set(psutil.Process().children(recursive=True)) <= set(before)


def test_a_program_cannot_read_the_environment_of_other_processes(executed):
    if not (code.has_bubblewrap() or namespaces()):
        pytest.skip("this machine permits no namespaces")
    reads = """
import glob
x = 0
for name in glob.glob("/proc/[0-9]*/environ"):
    try: x -= b"hf_secret_of_a_search" in open(name, "rb").read()
    except OSError: pass"""
    with subprocess.Popen(["sleep", "600"], env={"HF_TOKEN": "hf_secret_of_a_search"}) as other:
        environ = Path(f"/proc/{other.pid}/environ")
        while b"hf_secret_of_a_search" not in environ.read_bytes():  # before it is `sleep`
            time.sleep(0.01)
        try:
            assert measure(executed, "executed", [[reads]]) == [RIGHT]
        finally:
            other.kill()


def test_a_value_that_a_metric_cannot_have_counts_as_wrong(executed):
    rows = measure(executed, "impossible", [["1"], ["1e9"], ["nan"], ["-0.5"]])
    assert [row["accuracy"] for row in rows] == [1.0, 0.0, 0.0, 0.0]
    assert [row["size"] for row in rows] == [1.0, 0.0, 0.0, 0.0]


def test_relative_data_files_start_in_the_working_folder_of_the_search(executed):
    assert measure(executed, "relative", [["x = 0"], ["x = 0"]]) == [RIGHT, WRONG]


def test_a_task_that_the_code_process_cannot_load_is_bad_input(tmp_path, monkeypatch):
    name = write_executed(tmp_path)
    with (tmp_path / "checks.py").open("a") as file:
        file.write("import os\nassert 'ONLY_HERE' in os.environ, 'not here'\n")
    monkeypatch.setenv("ONLY_HERE", "1")
    with pytest.raises(ConfigError, match=r"'executed' cannot be loaded in.*not here.*; correct"):
        harness_of([name], tmp_path)


SEARCH = """
import sys
import tempfile
from types import SimpleNamespace

from evomerge.evaluation.lm_eval.code import CodeProcess

tempfile.tempdir = None  # it is read again
instance = SimpleNamespace(doc={"a": 0}, resps=[sys.argv[2]], doc_id=0)
CodeProcess([sys.argv[1]]).metrics(("executed", "executed"), [[instance]], {})
"""


def test_all_processes_and_folders_of_a_killed_search_are_gone(tmp_path):
    write_executed(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    sleeps = "import os, time\nos.fork() or os.setsid()\nopen('mark', 'w')\ntime.sleep(600)"
    (tmp_path / "killed_search.py").write_text(SEARCH)
    about = {"module": "killed_search", "cwd": tmp_path, "TMPDIR": str(temporary)}
    with Path(os.devnull).open("w") as nowhere:
        search = start(tmp_path, sleeps, stdout=nowhere, stderr=nowhere, **about)
    with ended(search):
        while not list(temporary.glob("**/mark")):
            assert search.poll() is None
            time.sleep(0.05)
        processes = psutil.Process(search.pid).children(recursive=True)
        assert len(processes) > 2
    psutil.wait_procs(processes, timeout=120)
    assert not [process for process in processes if process.is_running()]
    left = list(temporary.glob("**/*"))
    assert len(left) == 1 if code.has_bubblewrap() else not left  # it keeps the empty folder


def test_bubblewrap_is_used_where_it_is_installed(executed, tmp_path):
    """It lets code write to its own folder, and use no network."""
    if not code.has_bubblewrap():
        pytest.skip("bubblewrap is not installed or not permitted here")
    mark = tmp_path / "mark"
    writes = (
        f"open('own', 'w').close(); x = 0\ntry: open({str(mark)!r}, 'w')\nexcept OSError: x = 1"
    )
    assert measure(executed, "executed", [["x = 0"], [writes]]) == [RIGHT, RIGHT]
    assert not mark.exists()


def test_a_filter_that_executes_answers_loses_only_the_one_that_ends_it(executed):
    answers = [["'x = 0'"], ["__import__('os')._exit(0)"], ["'x = ' + '2'"]]
    assert measure(executed, "filtered", answers) == [RIGHT, WRONG, RIGHT]
