"""Keeps what searches and merges give today, and compares what they give after a change.

    python -m scripts.same keep FOLDER [--shared DIR] [--only PATTERN ...] [--jobs N]
    python -m scripts.same compare FOLDER [--only PATTERN ...] [--jobs N] [--ignore PATTERN ...]

`keep` writes the models that are merged, and for each search and merge FOLDER/NAME.json and, in
FOLDER/models/NAME, the weights. `compare` runs all of it again on the same models and prints what
differs; the exit code is then 1. PATTERN is a shell pattern of names, such as `search*`. Names
begin with `search` (a small search of each kind, see searches.yaml), `merge` (each method),
`oracle` and `corpus` (mergekit's recipes, and those that people have published, from --shared),
`average` and `stack` (of many architectures). --ignore leaves out lines that are meant to differ,
such as `/candidates/*/origin*` or `/files/*`.

evomerge is run by its command line, in forks of a process that has imported it. Of a journal, only
genomes, scores and failures are read; of a refusal only the exit code. Everything runs on one
thread. So the same code gives the same bits on the same machine.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import pkgutil
import re
import runpy
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from scripts.same.kept import differences, distance, journal, model
from scripts.same.models import make

TABLE = yaml.safe_load(Path(__file__).with_name("searches.yaml").read_text())
LIMIT = 900
"""Seconds that a command may take."""
IMPORTED = (
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "nevergrad",
    "cma",
    "cmaes",
    "matplotlib.backends.backend_svg",
    "sentence_transformers",
    "transformers.models.llama.modeling_llama",
    "torchvision",
)
SHOWN = 6
"""Differences of one search that are printed."""
GONE = ("experts", "gate_mode")
"""Keys of mergekit-moe."""
Cases: TypeAlias = Mapping[str, Path | Mapping[str, Any]]
"""Name -> the keys of a search that are not the usual ones, or the file of a merge."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("keep", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shared", type=Path, default=Path("../shared"))
    parser.add_argument("--only", nargs="*", default=["*"], metavar="PATTERN")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--ignore", nargs="*", default=[], metavar="PATTERN")
    given = parser.parse_args()
    folder = given.folder.resolve()
    _set_environment(folder)
    if given.command == "keep":
        _prepare(folder, given.shared.resolve())
    cases = {n: c for n, c in _cases(folder).items() if any(fnmatch(n, p) for p in given.only)}
    _import_everything()
    lanes = [dict(list(cases.items())[lane :: given.jobs]) for lane in range(given.jobs)]
    lane = _keep if given.command == "keep" else partial(_compare, ignored=given.ignore)
    codes = [_ended(child) for child in [_started(partial(lane, of, folder)) for of in lanes]]
    told = "" if given.command == "keep" else ", some differ" if any(codes) else ", all the same"
    print(f"{len(cases)} run, {_cpu_seconds():.0f} CPU seconds{told}")
    return int(any(codes))


def _keep(cases: Cases, folder: Path) -> None:
    """Write what each search and merge gives, and the weights."""
    for name, result, work, told in _results(cases, folder):
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1))
        said = (work / "log.txt").read_text().splitlines()[-1:] if result["code"] else []
        print(told, "code", result["code"], *said, flush=True)
        target = folder / "models" / name
        shutil.rmtree(target, ignore_errors=True)
        if (work / "model").exists():
            target.parent.mkdir(exist_ok=True)
            (work / "model").rename(target)
        shutil.rmtree(work)


def _compare(cases: Cases, folder: Path, ignored: Sequence[str]) -> None:
    """Print what each search and merge gives that was not kept; SystemExit 1: there is any."""
    differing = False
    for name, result, work, told in _results(cases, folder):
        kept, lines = folder / f"{name}.json", ["was not kept"]
        if kept.exists():
            found = differences(json.loads(kept.read_text()), result)
            lines = [line for line in found if not any(fnmatch(line, p) for p in ignored)]
        if lines:
            more = [f"... {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
            lines = [*lines[:SHOWN], *more, *distance(folder / "models" / name, work / "model")]
        else:
            shutil.rmtree(work)
        print(told, "\n    ".join(["differs", *lines]) if lines else "same", flush=True)
        differing |= bool(lines)
    raise SystemExit(int(differing))


def _results(cases: Cases, folder: Path) -> Iterator[tuple[str, dict[str, Any], Path, str]]:
    """Run searches and merges; yield name, result, folder with the model, and the cost in words."""
    for number, (name, case) in enumerate(cases.items(), 1):
        begin, work = _cpu_seconds(), folder / "work" / name
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        place = work / "result.json"
        run = partial(_write_result, case, work, folder, place)
        code = _ended(_started(run, work / "log.txt"))
        result = json.loads(place.read_text()) if code == 0 else {"code": f"script {code}"}
        cost = f"{number}/{len(cases)} {name}, {_cpu_seconds() - begin:.1f} CPU seconds:"
        yield name, result, work, cost


def _cpu_seconds() -> float:
    return sum(os.times()[:4])


# What is run.


def _set_environment(folder: Path) -> None:
    """Let everything run on one thread, without the network, and find `judging.py`."""
    os.environ.update(
        OMP_NUM_THREADS="1",
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        RAY_USAGE_STATS_ENABLED="0",
        EVOMERGE_STATE=str(folder / "state"),
        PYTHONPATH=os.pathsep.join([str(Path.cwd()), str(folder / "parents")]),
    )
    sys.path.append(str(folder / "parents"))


def _prepare(folder: Path, shared: Path) -> None:
    """Write all models that are not there yet; each is made once, so that all runs read it."""
    if not (folder / "parents").exists():
        kinds = TABLE["architectures"].split()
        _ended(_started(partial(make, folder / "parents", shared, kinds)))
    if not (folder / "oracle").exists():
        for part in ("parents", "recipes"):
            shutil.copytree(shared / "oracle" / part, folder / "oracle" / part)
    if not (folder / "corpus").exists():
        program = [sys.executable, shared / "corpus" / "standins.py", folder / "corpus"]
        subprocess.run(program, check=True)
    if not (folder / "architectures").exists():
        program = [sys.executable, shared / "corpus" / "architectures.py", "make"]
        environment = {**os.environ, "WORK": str(folder / "architectures")}
        subprocess.run(program, check=True, env=environment)


def _cases(folder: Path) -> Cases:
    """Return all searches and merges."""
    found: dict[str, Path | Mapping[str, Any]] = {
        f"search-{name}": case for name, case in _expanded("searches", folder).items()
    }
    for name, case in _expanded("merges", folder).items():
        found[f"merge-{name}"] = _written(folder / "recipes" / f"{name}.yml", case)
    for file in sorted(folder.glob("oracle/recipes/*.yaml")):
        found[f"oracle-{file.stem}"] = file
    for file in sorted(folder.glob("corpus/cases/*/*.yml")):
        documents = list(yaml.safe_load_all(file.read_text()))
        if len(documents) == 1 and not any(key in documents[0] for key in GONE):
            found[f"corpus-{file.parent.name}-{file.stem}"] = file
    for place in sorted(file.parent for file in folder.glob("architectures/*/kind.json")):
        a, b = str(place / "a"), str(place / "b")
        models = [{"model": m, "parameters": {"weight": w}} for m, w in ((a, 0.3), (b, 0.7))]
        parts = [{"model": a, "layer_range": [0, 2]}, {"model": b, "layer_range": [0, 4]}]
        for name, method, more in (
            ("average", "linear", {"models": models}),
            ("stack", "passthrough", {"slices": [{"sources": [part]} for part in parts]}),
        ):
            case = {"merge_method": method, "dtype": "float32", **more}
            found[f"{name}-{place.name}"] = _written(place / f"{name}.yml", case)
    return found


def _expanded(section: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of a section of `searches.yaml`, one for each word of `each`."""
    found = {}
    for name, case in TABLE[section].items():
        for word in case.pop("each", "EACH").split():
            text = json.dumps(case).replace("EACH", word)
            text = text.replace("MODELS", str(folder / "parents"))
            found[re.sub(r"[^\w-]+", "-", name.replace("EACH", word))] = json.loads(text)
    return found


def _written(file: Path, content: dict[str, Any]) -> Path:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content))
    return file


def _write_result(case: Path | Mapping[str, Any], work: Path, folder: Path, target: Path) -> None:
    """Run a search or a merge; its text has no path of the folder."""
    out = work / "model"
    if isinstance(case, Path):
        os.chdir(folder / "oracle")
        result = {"code": _evomerge("merge", case, "--out", out), **model(out)}
    else:
        result = _search(case, work)
    target.write_text(json.dumps(result).replace(str(folder), "FOLDER"))


def _search(case: Mapping[str, Any], work: Path) -> dict[str, Any]:
    """Run a search to its end, export its last merge and score that again."""
    case = dict(case)
    first, task = case.pop("resume", None), case.pop("stock", None)
    search = TABLE["base"] | case
    file, run, out = work / "search.yaml", work / "run", work / "model"
    file.write_text(yaml.safe_dump(search))
    alone = search.get("executor", {}).get("kind") in ("processes", "ray")
    trust = ["--trust-code"]
    more = [] if first is None else ["--candidates", first]
    code = _evomerge("search", file, "--run", run, *more, *trust, alone=alone)
    if first is not None and code == 0:
        whole = search["budget"]["candidates"]
        code = _evomerge("resume", run, "--candidates", whole, *trust, alone=alone)
    if code:
        return {"code": code}
    result = {"code": code, **journal(run / "journal.jsonl")}
    if (run / "best.yaml").exists():
        best = yaml.safe_load((run / "best.yaml").read_text())
        result["best"] = {key: value for key, value in best.items() if key != "pins"}
    scored = [n for n, item in result["candidates"].items() if isinstance(item.get("search"), dict)]
    result["exported"] = number = max(scored, key=int)  # a winner may be a parent
    result["export"] = _evomerge("export", run, "--out", out, "--candidate", number)
    result |= model(out)
    command = ("evaluate", out, "--config", file, "--split", "search", "--json", *trust)
    said = work / "evaluate.json"
    result["evaluate"] = _evomerge(*command, said=said)
    with suppress(ValueError, KeyError):
        scores = json.loads(said.read_text())["scores"]
        result["again"] = {key: item["value"] for key, item in scores.items()}
    if task is not None:
        known = result["candidates"][number]["search"]
        stock = _by_lm_eval(out, task, known["documents"][task], search["dtype"])
        result["stock is ours"] = stock == known["values"][f"{task}/exact_match"]
    return result


def _by_lm_eval(model: Path, task: str, ids: list[int], dtype: str) -> list[float]:
    """Return the scores of documents by lm-eval alone."""
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    import evomerge

    tasks = Path(evomerge.__file__).parent / "zoo" / "tasks"
    found = simple_evaluate(
        model=HFLM(pretrained=str(model), batch_size=1, device="cpu", dtype=dtype),
        tasks=[task],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        samples={task: ids},
        bootstrap_iters=0,
    )
    by_id = {sample["doc_id"]: sample["exact_match"] for sample in found["samples"][task]}
    return [by_id[number] for number in ids]


# How it is run.


def _import_everything() -> None:
    import evomerge

    for name in IMPORTED:
        with suppress(Exception):
            importlib.import_module(name)
    for module in pkgutil.walk_packages(evomerge.__path__, "evomerge."):
        if not module.name.endswith("__main__"):
            with suppress(Exception):
                importlib.import_module(module.name)
    gc.collect()
    gc.freeze()


def _started(run: Callable[[], object], log: Path | None = None) -> int:
    """Run a function in a fork, which may write what it says to a log; return its number."""
    sys.stdout.flush()
    if child := os.fork():
        return child
    code: Any = 1
    try:
        if log is not None:
            signal.alarm(LIMIT)
            file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(file, 1)
            os.dup2(file, 2)
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ended(child: int) -> int:
    """Wait for a fork and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _evomerge(*arguments: Any, alone: bool = False, said: Path | None = None) -> int:
    """Run a command in a fork, or in a process of its own; return the exit code."""
    command = ["evomerge", *map(str, arguments)]
    if alone:
        program = [sys.executable, "-m", *command]
        return subprocess.run(program, timeout=LIMIT, check=False).returncode

    def run() -> None:
        if said is not None:
            os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), 1)
        sys.argv = command
        runpy.run_module("evomerge", run_name="__main__", alter_sys=True)

    return _ended(_started(run))


if __name__ == "__main__":
    sys.exit(main())
