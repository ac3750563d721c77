"""Measures the cost of merging, on disk and in memory, and compares it with limits and mergekit.

    python benchmarks/merge.py [--quick | --large] [--methods start,linear] [--mergekit PYTHON]

Writes Llama models in bfloat16 into a temporary folder: a base model and two models near it (0.45 B
parameters each; 0.03 B with --quick; 1 B, that is 2 GB, with --large). For every merge method it
measures, in child processes on one thread, the minimum of a few rounds of

- command: `evomerge merge` from files to a file; `net` is the same without the cost of importing
  its modules and of loading the compiled loops (numba's start);
- limit: reading all sources and writing the output once with plain system calls;
- in place: merging another candidate into the resident model, with all knobs changed;
- pass: one pass over memory that reads as many bytes as the sources and the cached data of the
  method (random numbers, ranks) have, and writes the output (computed from the time of
  `torch.add(one, two, out=three)`);
- mergekit's own command on the same file, if --mergekit names a Python that has mergekit.

`start` is no method: it measures `evomerge merge` of embedded models that are so small that nearly
all of it is start-up, and says which large libraries that imports.

Times are CPU seconds; memory is the peak resident set size. The last line is one JSON object of
ratios: net/limit (goal: at most 1.5 for linear and slerp, 3 for dare_linear, 5 for ties), in
place/pass (goal: at most 2), and, with --mergekit, mergekit's cost divided by ours (goal: at least
3 for linear, slerp and task_arithmetic, 8 for the others; for memory at least 3).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

METHODS = (
    *("passthrough", "linear", "slerp", "task_arithmetic", "dare_linear", "dare_ties", "ties"),
    *("breadcrumbs", "consensus", "sce", "model_stock", "della"),
)
STARTED = ("linear", "ties")
"""The methods of the merges of `start`: without a base, and with one."""

LARGE = ("torch", "transformers", "matplotlib", "scipy", "numba", "pandas")
"""Libraries of which `start` says whether they are imported."""

BASED = frozenset(METHODS) - {"passthrough", "linear", "slerp"}
KEPT = {"dare_linear": 1, "dare_ties": 1, "della": 2}
"""Cached arrays of 16 bits per weight that a merge in place reads for each source."""

SPARSE = frozenset({"dare_linear", "dare_ties", "ties", "breadcrumbs", "della"})
READ_AND_WRITE = """
import os, sys
buffer = memoryview(bytearray(1 << 22))
*sources, out = sys.argv[1:]
size = os.stat(sources[0]).st_size
for name in sources:
    file = os.open(name, os.O_RDONLY)
    while os.readv(file, [buffer]):
        pass
file = os.open(out, os.O_WRONLY | os.O_CREAT)
while size > 0:
    size -= os.write(file, buffer[:size])
os.fsync(file)
"""
LOADED = """
import sys
from evomerge.__main__ import run
code = run(sys.argv[2:])
print(*(name for name in sys.argv[1].split(",") if name in sys.modules))
sys.exit(code)
"""
IMPORTS = """
import evomerge.__main__, evomerge.cli.commands, evomerge.mergekit, evomerge.export.recipe
import evomerge.export.card, evomerge.merging.backend, evomerge.merging.writer
import evomerge.merging.tokenizers.plan, evomerge.merging.tensors.adapters
import evomerge.merging.kernels.consensus, evomerge.merging.kernels.masks
import evomerge.merging.kernels.overlap, evomerge.merging.kernels.rowwise
import evomerge.merging.kernels.sparsify, evomerge.merging.kernels.variance
import pydantic.main, rich.console, typer.main
import numpy
evomerge.merging.kernels.compiled.are_finite(numpy.zeros(1, dtype=numpy.uint16))
"""


@dataclass(frozen=True)
class Cost:
    """CPU seconds and peak bytes of a process."""

    seconds: float
    peak: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a family of 0.03 B parameters")
    size.add_argument("--large", action="store_true", help="a family of 1 B parameters")
    parser.add_argument(
        "--methods", default=f"start,{','.join(METHODS)}", help="names, joined by commas"
    )
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--mergekit", type=Path, help="a Python that has mergekit installed")
    parser.add_argument("--folder", type=Path, help="where the family is, or will be, kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder and options.folder.parent) as scratch:
        ratios = {}
        methods = options.methods.split(",")
        if "start" in methods:
            methods.remove("start")
            ratios |= start(options, Path(scratch))
        family = options.folder or Path(scratch) / "family"
        if methods and not family.exists():
            size = "quick" if options.quick else "large" if options.large else "usual"
            child([sys.executable, __file__, "make", family, size])
        if methods:
            ratios |= table(options, methods, family, Path(scratch))
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


def start(options: argparse.Namespace, scratch: Path) -> dict[str, float]:
    """Measure merges of tiny models and print a row for each; return the ratios."""
    family, out = scratch / "tiny", scratch / "out"
    family.mkdir()
    models = Path(__file__).resolve().parents[1] / "evomerge" / "zoo" / "models"
    for name, model in (("base", "base"), ("one", "maths"), ("two", "language")):
        (family / name).symlink_to(models / model)
    numba = least([sys.executable, "-c", "import numba"], options.rounds)
    ratios: dict[str, float] = {}
    for method in STARTED:
        recipe = scratch / f"start-{method}.yaml"
        recipe.write_text(recipe_text(method, family))
        command = ["evomerge", "merge", recipe, "--out", out]
        ours = least([sys.executable, "-m", *command], options.rounds, out)
        loaded = [sys.executable, "-c", LOADED, ",".join(LARGE), *command[1:]]
        told = subprocess.run(
            list(map(str, loaded)), env=environment(), check=True, capture_output=True, text=True
        )
        subprocess.run(["rm", "-rf", str(out)], check=True)
        ratios[f"start {method} command/import numba"] = ours.seconds / numba.seconds
        row = (
            f"start: {method} of tiny models takes {ours.seconds:.2f} s, {gb(ours.peak)}, and "
            f"imports {' '.join(told.stdout.splitlines()[-1].split()) or 'none'} of "
            f"{', '.join(LARGE)}"
        )
        if options.mergekit:
            run = [options.mergekit, "-m", "mergekit.scripts.run_yaml", recipe, out]
            theirs = least(run, options.rounds, out)
            ratios[f"start {method} mergekit/ours seconds"] = theirs.seconds / ours.seconds
            row += f"; mergekit {theirs.seconds:.2f} s, {gb(theirs.peak)}"
        print(row, flush=True)
    return ratios


def table(
    options: argparse.Namespace, methods: Sequence[str], family: Path, scratch: Path
) -> dict[str, float]:
    """Measure and print one row for each method; return the ratios."""
    imports = least([sys.executable, "-c", IMPORTS], options.rounds)
    size = (family / "base" / "model.safetensors").stat().st_size
    print(f"models of {size / 1e9:.2f} GB; imports {imports.seconds:.2f} s, {gb(imports.peak)}")
    columns = (
        "command  net limit ratio |  peak  net | place  pass ratio | mergekit peak  x CPU x peak"
    )
    print(f"{'method':16} {columns}")
    ratios: dict[str, float] = {}
    for method in methods:
        recipe = scratch / f"{method}.yaml"
        recipe.write_text(recipe_text(method, family))
        sources = [family / name / "model.safetensors" for name in names(method)]
        out = scratch / "out"
        command = [sys.executable, "-m", "evomerge", "merge", recipe, "--out", out]
        ours = least(command, options.rounds, out)
        limit = least([sys.executable, "-c", READ_AND_WRITE, *sources, out], options.rounds, out)
        place, one_pass = in_place(method, family)
        net = ours.seconds - imports.seconds
        ratios[f"{method} net/limit"] = net / limit.seconds
        ratios[f"{method} in place/pass"] = place / one_pass
        row = (
            f"{method:16} {ours.seconds:6.2f} {net:5.2f} {limit.seconds:5.2f} "
            f"{net / limit.seconds:5.2f} | {gb(ours.peak)} {(ours.peak - imports.peak) / 1e9:4.2f}"
            f" | {place:5.2f} {one_pass:5.2f} {place / one_pass:5.2f} |"
        )
        if options.mergekit:
            run = [options.mergekit, "-m", "mergekit.scripts.run_yaml", recipe, out]
            theirs = least(run, 1, out)
            ratios[f"{method} mergekit/ours seconds"] = theirs.seconds / ours.seconds
            ratios[f"{method} mergekit/ours peak"] = theirs.peak / ours.peak
            row += (
                f" {theirs.seconds:7.2f} {gb(theirs.peak)} {theirs.seconds / ours.seconds:5.1f}"
                f" {theirs.peak / ours.peak:5.1f}"
            )
        print(row, flush=True)
    return ratios


def gb(number: int) -> str:
    return f"{number / 1e9:.2f}GB"


def names(method: str) -> tuple[str, ...]:
    """Return the names of the models that a method reads."""
    if method == "passthrough":
        return ("one",)
    return ("base", "one", "two") if method in BASED else ("one", "two")


def recipe_text(method: str, family: Path) -> str:
    """Return a mergekit config as text (JSON is YAML)."""
    weight = {} if method in ("passthrough", "slerp", "sce", "model_stock") else {"weight": 0.6}
    density = {"density": 0.5} if method in SPARSE else {}
    models = [
        {"model": str(family / name), "parameters": {**weight, **density}}
        for name in names(method)
        if name != "base"
    ]
    recipe: dict[str, object] = {"merge_method": method, "dtype": "bfloat16", "models": models}
    if method == "slerp":
        recipe["parameters"] = {"t": 0.4}
    if method in BASED or method == "slerp":
        recipe["base_model"] = str(family / ("one" if method == "slerp" else "base"))
    return json.dumps(recipe)


def in_place(method: str, family: Path) -> tuple[float, float]:
    """Return the CPU seconds of another candidate in memory, and of a pass over the same bytes."""
    command = [sys.executable, __file__, "place", method, family]
    told = subprocess.run(
        list(map(str, command)), env=environment(), check=True, capture_output=True, text=True
    )
    place, one_pass = told.stdout.split()[-2:]
    return float(place), float(one_pass)


def least(command: Sequence[object], rounds: int, out: Path | None = None) -> Cost:
    """Run a command `rounds` times; return its smallest time and smallest peak memory.

    Args:
        out: output of the command, which is removed after each run.
    """
    costs = []
    for _ in range(rounds):
        costs.append(child(command))
        if out is not None:
            subprocess.run(["rm", "-rf", str(out)], check=True)
    return Cost(min(cost.seconds for cost in costs), min(cost.peak for cost in costs))


def child(command: Sequence[object]) -> Cost:
    """Run a command on one thread and return its cost."""
    with tempfile.TemporaryFile() as told:
        process = subprocess.Popen(
            list(map(str, command)), env=environment(), stdout=told, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if status:
            told.seek(0)
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{told.read().decode()}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def environment() -> dict[str, str]:
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    root = str(Path(__file__).resolve().parents[1])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, **one, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1"}


def make(family: Path, size: str) -> None:
    """Write a base model and two models near it."""
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(32000)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0")
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size={"quick": 256, "usual": 1024, "large": 1536}[size],
        intermediate_size={"quick": 1024, "usual": 3840, "large": 6144}[size],
        num_hidden_layers=12 if size == "quick" else 24,
        num_attention_heads=8,
        num_key_value_heads=8,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    with torch.device("meta"):
        shapes = {name: item.shape for name, item in LlamaForCausalLM(config).state_dict().items()}
    for seed, name in enumerate(("base", "one", "two")):
        tensors = {}
        for position, (tensor_name, shape) in enumerate(shapes.items()):
            shared = torch.Generator().manual_seed(position)
            tensor = torch.randn(shape, generator=shared) * 0.02
            if seed:
                own = torch.Generator().manual_seed(position + 1000 * seed)
                tensor += torch.randn(shape, generator=own) * 0.001
            tensors[tensor_name] = tensor.bfloat16()
        folder = family / name
        config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def place(method: str, family: Path) -> None:
    """Print the CPU seconds of another candidate in memory, and of a pass over the same bytes."""
    import time
    from dataclasses import replace

    import torch

    from evomerge.mergekit import from_mergekit
    from evomerge.merging.resident import Resident
    from evomerge.models.checkpoint import Checkpoint

    opened = {
        str(family / name): Checkpoint.open(family / name, str(family / name))
        for name in {*names(method), "base"}
    }
    recipe = from_mergekit(recipe_text(method, family), opened)
    resident = Resident(opened, recipe.host, recipe.dtype, memory=16 << 30)
    resident.apply(recipe)

    def other(number: int) -> object:
        def nudge(layer):  # type: ignore[no-untyped-def]
            def moved(knobs):  # type: ignore[no-untyped-def]
                return {
                    k: v - 0.01 * number if k in ("weight", "t") else v for k, v in knobs.items()
                }

            sources = [
                replace(item, knobs={"scale": 1 - 0.01 * number})
                if layer.method == "passthrough"
                else replace(item, knobs=moved(item.knobs))
                for item in layer.sources
            ]
            return replace(layer, sources=sources, knobs=moved(layer.knobs))

        return replace(
            recipe,
            seed=recipe.seed,
            embeddings=nudge(recipe.embeddings),
            head=nudge(recipe.head),
            layers={key: tuple(map(nudge, stack)) for key, stack in recipe.layers.items()},
        )

    times = []
    for number in range(1, 4):
        candidate = other(number)
        resident._written.clear()  # sce and model_stock have no knob to move
        start = time.process_time()
        resident.apply(candidate)
        times.append(time.process_time() - start)
    weights = [weight.detach() for weight in resident.module.parameters()]
    others = [(weight.clone(), torch.empty_like(weight)) for weight in weights]
    fused = []
    for _ in range(3):
        start = time.process_time()
        for weight, (other_weight, out) in zip(weights, others, strict=True):
            torch.add(weight, other_weight, alpha=0.5, out=out)
        fused.append(time.process_time() - start)
    sources = len(names(method)) - (method in BASED)
    tensors = len(names(method)) + 1 + KEPT.get(method, 0) * sources
    print(min(times), min(fused) / 3 * tensors)


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["place"]:
        place(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
