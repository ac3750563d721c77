"""Measures the cost of merging, on disk and in memory, and compares it with mergekit.

    python benchmarks/merge.py [--quick] [--methods NAME ...] [--mergekit PYTHON] [--rounds N]

Writes three random Llamas in bfloat16 into a temporary folder: a base model and two models near it
(0.45 B parameters each; with --quick 0.03 B). For every merge method it measures, in child
processes on one thread, in each round

- command: `evomerge merge` from files to a file;
- in place: merging another candidate into the resident model, with all knobs changed;
- pass: one pass over memory that reads as many bytes as the sources and the cached data of the
  method (random numbers, ranks) have, and writes the output (computed from the time of
  `torch.add(one, two, out=three)`);
- mergekit's own command on the same file, if --mergekit names a Python that has mergekit.

Times are CPU seconds; memory is the peak resident set size. Ratios are of the same round, and the
table has the smallest and the largest of them. The last line is one JSON object of these ratios: in
place/pass, and, with --mergekit, mergekit's cost divided by ours.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
METHODS = (
    *("passthrough", "linear", "slerp", "task_arithmetic", "dare_linear", "dare_ties", "ties"),
    *("breadcrumbs", "sce", "model_stock", "della"),
)
BASED = frozenset(METHODS) - {"passthrough", "linear", "slerp"}
KEPT = {"dare_linear": 1, "dare_ties": 1, "della": 2}
"""Cached arrays of 16 bits per weight that a merge in place reads for each source."""

SPARSE = frozenset({"dare_linear", "dare_ties", "ties", "breadcrumbs", "della"})
COLUMNS = (
    *("command", "peak", "in place", "pass", "in place/pass", "mergekit", "its peak"),
    *("mergekit/ours seconds", "mergekit/ours peak"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="models of 0.03 B, one round")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mergekit", type=Path, help="a Python that has mergekit installed")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        child([sys.executable, __file__, "make", folder, "quick" if options.quick else "usual"])
        print(f"| method | {' | '.join(COLUMNS)} |")
        print("|---" * (1 + len(COLUMNS)) + "|")
        for method in options.methods:
            found = [measure(method, folder, options.mergekit) for _ in range(rounds)]
            ends = {n: (min(r[n] for r in found), max(r[n] for r in found)) for n in found[0]}
            shown = {n: dict.fromkeys(f"{x:.2f}" for x in pair) for n, pair in ends.items()}
            cells = [" to ".join(shown.get(name, ())) for name in COLUMNS]
            print(f"| {method} | {' | '.join(cells)} |", flush=True)
            ratios |= {f"{method} {n} least": a for n, (a, _) in ends.items() if "/" in n}
            ratios |= {f"{method} {n} most": b for n, (_, b) in ends.items() if "/" in n}
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


def measure(method: str, folder: Path, mergekit: Path | None) -> dict[str, float]:
    """Return what a method costs: CPU seconds, peaks in GB, and ratios."""
    out, file = folder / "out", folder / f"{method}.yaml"
    first = not file.exists()
    file.write_text(recipe_text(method, folder))
    merge = [sys.executable, "-m", "evomerge", "merge", file, "--out", out]
    if first:  # compiles the loops of the method, if they are not in the cache
        child(merge, out)
    seconds, peak, _ = child(merge, out)
    place, one = map(float, child([sys.executable, __file__, "place", folder, method])[2].split())
    found = {"command": seconds, "peak": peak, "in place": place, "pass": one}
    found["in place/pass"] = place / one
    if mergekit:
        theirs, most, _ = child([mergekit, "-m", "mergekit.scripts.run_yaml", file, out], out)
        found |= {"mergekit": theirs, "its peak": most}
        found |= {"mergekit/ours seconds": theirs / seconds, "mergekit/ours peak": most / peak}
    return found


def names(method: str) -> tuple[str, ...]:
    """Return the names of the models that a method reads."""
    if method == "passthrough":
        return ("one",)
    return ("base", "one", "two") if method in BASED else ("one", "two")


def recipe_text(method: str, folder: Path) -> str:
    """Return a mergekit config as text (JSON is YAML)."""
    weight = {} if method in ("passthrough", "slerp", "sce", "model_stock") else {"weight": 0.6}
    density = {"density": 0.5} if method in SPARSE else {}
    models = [
        {"model": str(folder / name), "parameters": {**weight, **density}}
        for name in names(method)
        if name != "base"
    ]
    recipe: dict[str, object] = {"merge_method": method, "dtype": "bfloat16", "models": models}
    if method == "slerp":
        recipe["parameters"] = {"t": 0.4}
    if method in BASED or method == "slerp":
        recipe["base_model"] = str(folder / ("one" if method == "slerp" else "base"))
    return json.dumps(recipe)


def child(command: Sequence[object], out: Path | None = None) -> tuple[float, float, str]:
    """Run a command on one thread.

    Args:
        out: output of the command, which is removed afterwards.

    Returns:
        (CPU seconds, peak memory in GB, what it printed)
    """
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, **one, "PYTHONPATH": os.pathsep.join(paths)}
    with tempfile.TemporaryFile("w+") as told, tempfile.TemporaryFile("w+") as errors:
        words = list(map(str, command))
        process = subprocess.Popen(words, env=environment, stdout=told, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        for file in (told, errors):
            file.seek(0)
        if status:
            raise SystemExit(f"{' '.join(words)} failed:\n{told.read()}{errors.read()}")
        said = told.read()
    if out is not None:
        shutil.rmtree(out)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1e9, said


def make(folder: Path, size: str) -> None:
    """Write the models `base`, `one` and `two`."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    width, inner, layers = (256, 1024, 12) if size == "quick" else (1024, 3840, 24)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(32000)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {key: item.shape for key, item in model.state_dict().items()}
    for seed, member in enumerate(("base", "one", "two")):
        tensors = {}
        for position, (tensor_name, shape) in enumerate(shapes.items()):
            shared = torch.Generator().manual_seed(position)
            tensor = torch.randn(shape, generator=shared) * 0.02
            if seed:
                own = torch.Generator().manual_seed(position + 1000 * seed)
                tensor += torch.randn(shape, generator=own) * 0.001
            tensors[tensor_name] = tensor.bfloat16()
        config.save_pretrained(folder / member)
        tokenizer.save_pretrained(folder / member)
        save_file(tensors, folder / member / "model.safetensors", metadata={"format": "pt"})


def place(folder: Path, method: str) -> None:
    """Print the CPU seconds of another candidate in memory, and of a pass over the same bytes."""
    import torch

    from evomerge.mergekit import from_mergekit
    from evomerge.merging.resident import Resident
    from evomerge.models.checkpoint import Checkpoint
    from evomerge.recipe import Layer, Recipe

    def other(recipe: Recipe, number: int) -> Recipe:
        def moved(layer: Layer) -> Layer:
            """Return the layer with all its knobs moved."""

            def nudged(knobs: dict[str, float]) -> dict[str, float]:
                step = 0.01 * number
                return {k: v - step if k in ("weight", "t") else v for k, v in knobs.items()}

            scale = {"scale": 1 - 0.01 * number} if layer.method == "passthrough" else {}
            sources = [
                replace(item, knobs=scale or nudged(dict(item.knobs))) for item in layer.sources
            ]
            return replace(layer, sources=sources, knobs=nudged(dict(layer.knobs)))

        return replace(
            recipe,
            embeddings=moved(recipe.embeddings),
            head=moved(recipe.head),
            layers={key: tuple(map(moved, stack)) for key, stack in recipe.layers.items()},
        )

    opened = {
        str(folder / name): Checkpoint.open(folder / name, str(folder / name))
        for name in {*names(method), "base"}
    }
    recipe = from_mergekit(recipe_text(method, folder), opened)
    resident = Resident(opened, recipe.host, recipe.dtype, memory=16 << 30)
    resident.apply(recipe)
    times, fused = [], []
    for number in range(1, 4):
        candidate = other(recipe, number)
        resident._written.clear()  # sce and model_stock have no knob to move
        began = time.process_time()
        resident.apply(candidate)
        times.append(time.process_time() - began)
    weights = [weight.detach() for weight in resident.module.parameters()]
    others = [(weight.clone(), torch.empty_like(weight)) for weight in weights]
    for _ in range(3):
        began = time.process_time()
        for weight, (other_weight, out) in zip(weights, others, strict=True):
            torch.add(weight, other_weight, alpha=0.5, out=out)
        fused.append(time.process_time() - began)
    sources = len(names(method)) - (method in BASED)
    arrays = len(names(method)) + 1 + KEPT.get(method, 0) * sources
    print(min(times), min(fused) / 3 * arrays)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["place"]:
        place(Path(sys.argv[2]), sys.argv[3])
    else:
        main()
