"""Files that a whole command goes on to use: what one room reads is passed to all that follow."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lm_eval.tasks
import tiny
from attacks.targets.models import ADAPTER, CONFIG, TOKENIZER_CONFIG, write_adapter
from attacks.targets.recipes import MODELS, RECIPE, SLICES, two_models
from attacks.targets.runs import TIMINGS, chained, notes
from attacks.targets.searches import KEPT, any_digest
from attacks.targets.target import Read, Target, near_json, near_yaml
from few_tasks import only
from mutations import damaged, json_files, value_or_error
from run_folders import asked, lines_of, scores, told, write_run
from search_run import SMALL

from evomerge.__main__ import run as command
from evomerge.export.parents import common_licence, describe_parents
from evomerge.models.causal import check_causal, check_chat_template, check_tokenizer
from evomerge.models.correspondence import check_fit
from evomerge.models.references import open_parent
from evomerge.run.folder import CONFIG as SEARCH_FILE
from evomerge.run.folder import JOURNAL, MANIFEST
from evomerge.run.journal import HEADER
from evomerge.scores import Failure

EVENTS = [
    HEADER,
    asked(0, "zoo:language"),
    told(0, scores(3)),
    asked(1, "uniform"),
    told(1, Failure("merge", "no weights")),
    asked(2, genome=[0.5, 1.0]),
    told(2, scores(9)),
    {"event": "score", "candidate": 2, "split": "validation", "scores": scores(4, 16).to_dict()},
    {"event": "winner", "candidate": 2},
]
DEEPER = {
    "merge_method": "passthrough",
    "slices": [
        {"sources": [{"model": "a", "layer_range": [0, 2]}]},
        {"sources": [{"model": "b", "layer_range": [0, 3]}]},
    ],
    "dtype": "float32",
}
SMALL_SEARCH = {
    "parents": ["./a", "./b"],
    "dtype": "float32",
    "space": {"kind": "parameters", "method": "linear", "knobs": {"weight": [0.0, 1.0]}},
    "objectives": [{"task": "zoo_maths", "metric": "exact_match"}],
    "evaluation": {
        "include": ["zoo:tasks"],
        "search": {"documents": 4},
        "validation": {"documents": 4, "finalists": 1},
        "test": {"documents": 4},
    },
    "budget": {"candidates": 4},
}
FEW_TASKS = only("gsm8k")
LLAMA = {**tiny.CONFIGS["llama"]().to_dict(), "architectures": ["LlamaForCausalLM"]}
CARD = {
    "license": "other",
    "license_name": "own",
    "license_link": "https://example.org/licence",
    "language": ["en", "es"],
    "base_model": ["org/one", "org/two"],
    "tags": ["merge"],
}


def said(*arguments: object) -> str:
    """Run a command in this process and return what it printed."""
    output, messages = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(messages):
        code = command([str(item) for item in arguments])
    assert code in (0, 1, 2), code
    return output.getvalue()


SHOWN = KEPT | {"config": SMALL}


def shown_runs(name: str) -> Any:
    """Return the reader of one file of a run, which `status`, `results` and `list` show."""

    def reader(folder: Path) -> Read:
        run = write_run(folder / "run", EVENTS[1:]).path
        if name in (SEARCH_FILE, MANIFEST):
            (run / MANIFEST).write_text(json.dumps(SHOWN))

        def read(data: bytes) -> Any:
            (run / name).write_bytes(data)
            with any_digest() if name in (SEARCH_FILE, MANIFEST) else nullcontext():
                shown = [
                    value_or_error(lambda: said("status", run, "--json")),
                    value_or_error(lambda: said("results", run, "--json")),
                    value_or_error(lambda: said("status", run)),
                    value_or_error(lambda: said("results", run)),
                ]
            for text in filter(None, shown):
                assert "\x1b" not in text
            return shown

        return read

    return reader


def merges(folder: Path) -> Read:
    """A recipe or a mergekit file whose model is made."""
    two_models(folder)
    return merged(folder, "recipe.yaml")


def merged(folder: Path, name: str) -> Read:
    """Return the reader of a file of a folder by the merge of `recipe.yaml` there."""
    out = folder / "out"

    def read(data: bytes) -> Any:
        (folder / name).write_bytes(data)
        try:
            with contextlib.chdir(folder):
                return said("merge", folder / "recipe.yaml", "--out", out)
        finally:
            shutil.rmtree(out, ignore_errors=True)

    return read


def opened_models(folder: Path) -> Read:
    """The config.json of a model that is named in a search file, with the checks of `validate`."""
    host = open_parent(str(tiny.make(folder / "host", "llama")), folder)
    path = tiny.make(folder / "model", "llama", seed=1)

    def read(data: bytes) -> Any:
        (path / "config.json").write_bytes(data)
        model = open_parent(str(path), folder)
        check_causal(model)
        check_tokenizer(model)
        value_or_error(lambda: check_chat_template(model))
        check_fit(host, [model])
        return model

    return read


def opened_adapters(folder: Path) -> Read:
    """The config of an adapter that is named in a search file."""
    model = tiny.make(folder / "model", "llama", seed=1)
    adapter = write_adapter(folder / "adapter")

    def read(data: bytes) -> Any:
        (adapter / "adapter_config.json").write_bytes(data)
        return open_parent(f"{model}+{adapter}", folder)

    return read


def cards(folder: Path) -> Read:
    """The card of a parent, of which an export takes the licence."""
    path = tiny.make(folder / "model", "llama")
    model = open_parent(str(path), folder)

    def read(data: bytes) -> Any:
        (path / "README.md").write_bytes(b"---\n" + data + b"\n---\n# model\n")
        found = describe_parents({"model": model})["model"]
        assert len("".join((common_licence([found]) or {}).values())) < 300_000
        return found

    return read


def depths(folder: Path) -> Read:
    """The config.json of the host of a path through the layers, which a merge writes anew."""
    two_models(folder)
    (folder / "recipe.yaml").write_text(json.dumps(DEEPER))
    return merged(folder, "a/config.json")


def validated(name: str) -> Any:
    """Return the reader of a search file, or of a file of one of its parents, by `validate`."""

    def reader(folder: Path) -> Read:
        two_models(folder)
        (folder / "search.yaml").write_text(json.dumps(SMALL_SEARCH))

        def read(data: bytes) -> Any:
            (folder / name).write_bytes(data)
            # A task that no folder of `evaluation.include` has may be one of lm-eval's own.
            with patch.object(lm_eval.tasks, "TaskManager", FEW_TASKS), contextlib.chdir(folder):
                return said("validate", "search.yaml")

        return read

    return reader


_JOURNAL = b"".join(lines_of(EVENTS[1:]))
COMMANDS = {
    "shown journal": Target(
        (chained(json.dumps(EVENTS).encode()),),
        json_files(EVENTS).map(chained) | damaged(_JOURNAL),
        shown_runs(JOURNAL),
    ),
    "shown search": near_yaml(shown_runs(SEARCH_FILE), SMALL),
    "shown manifest": near_json(shown_runs(MANIFEST), SHOWN),
    "shown timings": Target(
        ("".join(json.dumps(line) + "\n" for line in TIMINGS).encode(),),
        notes(TIMINGS),
        shown_runs("timings.jsonl"),
    ),
    "merge": near_yaml(merges, RECIPE, MODELS, SLICES),
    "opened model": near_json(opened_models, CONFIG),
    "opened adapter": near_json(opened_adapters, ADAPTER),
    "deeper model": near_json(depths, LLAMA),
    "validated search": near_yaml(validated("search.yaml"), SMALL_SEARCH),
    "validated model": near_json(validated("a/config.json"), LLAMA),
    "validated tokenizer": near_json(validated("a/tokenizer_config.json"), TOKENIZER_CONFIG),
    "card": near_yaml(cards, CARD),
}
