"""A search leaves the process that calls it as it found it."""

import json
import subprocess
import sys

import pytest
from search_run import SMALL

SNAPSHOT = """
import gc, importlib, json, logging, os, random, resource, signal, sys, threading, warnings


def attributes(*modules):
    return {
        f"{name}.{key}": id(value)
        for name in modules
        for key, value in vars(importlib.import_module(name)).items()
        if not key.startswith("__") and (callable(value) or name == "lm_eval.utils")
    }


def snapshot():
    import datasets, lm_eval, lm_eval.tasks, numpy, torch, transformers
    import lm_eval.models.huggingface

    limits = [name for name in dir(resource) if name.startswith("RLIMIT")]
    loggers = ["", "transformers", "lm_eval", "datasets", "accelerate", "evomerge"]
    return {
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": {str(n): str(signal.getsignal(n)) for n in signal.valid_signals()},
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
        "streams": [id(sys.stdout), id(sys.stderr), id(sys.excepthook), id(sys.exit)],
        "imports": [repr(sys.meta_path), repr(sys.path_hooks), sys.path, sys.pycache_prefix],
        "warnings": [str(i) for i in warnings.filters if not i[2].__module__.startswith("cma")],
        "levels": {n: logging.getLogger(n).level for n in loggers},
        "handlers": {n: len(logging.getLogger(n).handlers) for n in loggers},
        "numpy": [numpy.geterr(), str(numpy.random.get_state())],
        "random": hash(random.getstate()),
        "torch": [
            torch.get_num_threads(), str(torch.get_default_dtype()), torch.is_grad_enabled(),
            torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision(),
            torch.get_rng_state().sum().item(),
        ],
        "bars and messages": [
            transformers.utils.logging.get_verbosity(),
            transformers.utils.logging.is_progress_bar_enabled(),
            datasets.are_progress_bars_disabled(),
        ],
        "threads": sorted({t.name for t in threading.enumerate()} - {"tqdm_monitor"}),
        "replaced": attributes(
            "os", "sys", "signal", "torch", "torch.nn.functional", "lm_eval.utils",
            "lm_eval.tasks._yaml_loader", "lm_eval.models.huggingface",
        ),
    }


import cma, nevergrad, scipy.special, transformers  # what these change is their own
import torch
torch.set_num_threads(2)
classes = [
    transformers.PreTrainedModel, transformers.GenerationMixin, transformers.GenerationConfig,
    transformers.PreTrainedTokenizerFast, transformers.LlamaForCausalLM,
]
def members():
    return {f"{k.__name__}.{n}": id(v) for k in classes for n, v in vars(k).items()}

snapshot()
before = json.loads(json.dumps(snapshot())), members()
import evomerge

config, run = json.loads(sys.argv[1]), sys.argv[2]
evomerge.search(config, run, progress=False)
del config["evaluation"]
with evomerge.Study({**config, "objectives": [{"told": "wins"}]}, run=f"{run}-study") as study:
    candidate = study.ask()
    candidate.model()
    study.tell(candidate, 1.0)
del study, candidate
gc.collect()
after = json.loads(json.dumps(snapshot())), members()
found = [
    [key, before[0][key], after[0][key]]
    for key in before[0]
    if key != "replaced" and before[0][key] != after[0][key]
]
for old, new in ((before[0]["replaced"], after[0]["replaced"]), (before[1], after[1])):
    found += [["replaced", name] for name in old if old[name] != new.get(name)]
print(json.dumps(found))
"""


@pytest.mark.thorough
def test_a_search_changes_nothing_in_the_process_that_calls_it(tmp_path):
    config = SMALL | {"budget": {"candidates": 6}}
    done = subprocess.run(
        [sys.executable, "-c", SNAPSHOT, json.dumps(config), str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == []
