"""Measures the memory of a descent, beside what `evomerge validate` says before the search.

    python benchmarks/descent_memory.py [--quick] [--set KEY=VALUE ...] [FILE ...]

Each FILE is a search file. Without one, it is a search over three models of random weights with the
shape of Llama 3.2 1B and a smaller vocabulary (1.04 billion weights; with `--quick` 0.01 billion),
which are written into a temporary folder: a weight for the attention and one for the rest of each
layer and parent, 64 documents a step.

`evomerge validate FILE --time` scores the parents and makes two steps of a descent, in a process of
its own, on one thread. The same with `optimizer.name: cma` only scores. Printed are the rows
`memory` of `validate` with the mapped files of the parents, the peak resident set size of each
process, both in GB, and the seconds of a step. The last line is one JSON object: file -> peak of
the descent, as a share of what `validate` says.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_UNITS = {"B": 1e-9, "kB": 1e-6, "MB": 1e-3, "GB": 1.0, "TB": 1e3}

_SEARCH = """
parents: [one, two]
base: base
dtype: bfloat16
space:
  method: task_arithmetic
  groups: each
  components: [attention]
  embeddings: false
  knobs: {weight: [0.0, 1.5]}
optimizer: {name: gradient, batch: 64}
objectives: [{task: zoo_l2_maths, metric: exact_match}]
evaluation:
  include: [zoo:tasks]
  search: {documents: 80}
  validation: {documents: 10}
  test: {documents: 10}
  racing: {enabled: false}
budget: {candidates: 10}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="search files")
    parser.add_argument("--quick", action="store_true", help="smaller random models")
    parser.add_argument("--set", nargs=1, action="extend", default=[], help="as of evomerge")
    options = parser.parse_args()
    print("| search file | optimizer | backward pass | together | peak | s a step |")
    print("|---|---|---|---|---|---|")
    shares: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for file in options.files or [write_search(Path(folder), options.quick)]:
            for optimizer in ("cma", "gradient"):
                found = tried_out(file, optimizer, options.set)
                said = {name: _in_gb(text) for name, text in found["memory"].items()}
                # The first two words, as in `3.1 GB of parents`.
                said["together"] += _in_gb(" ".join(found["mapped_files"].split()[:2]))
                peak = found["time"]["peak_bytes"]["process"] / 1e9
                row = [said.get("backward pass", 0.0), said["together"], peak]
                cells = " | ".join(f"{size:.2f}" for size in row)
                step = found["time"]["step_seconds"]
                print(f"| {file.stem} | {optimizer} | {cells} | {step:.1f} |", flush=True)
            shares[file.stem] = round(peak / said["together"], 3)
    print(json.dumps(shares))


def tried_out(file: Path, optimizer: str, more: list[str]) -> dict[str, Any]:
    """Return what `evomerge validate --time` says of a search file with changes."""
    command = [sys.executable, "-m", "evomerge", "validate", str(file), "--time", "--json"]
    name = (
        "optimizer.name=gradient" if optimizer == "gradient" else f"optimizer={{name: {optimizer}}}"
    )
    changes = [word for item in (name, "evaluation.threads=1", *more) for word in ("--set", item)]
    done = subprocess.run(
        [*command, *changes],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _in_gb(text: str) -> float:
    """Turn a size such as `1.23 MB` into gigabytes."""
    number, unit = text.split()
    return float(number) * _UNITS[unit]


def write_search(folder: Path, quick: bool) -> Path:
    """Write models of random weights and a search file over them; return the file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

    from evomerge import zoo

    width, layers = (256, 4) if quick else (2048, 16)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 256,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("base"))
    for name in ("base", "one", "two"):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
        with torch.no_grad():
            for weight in model.parameters():
                weight.add_(torch.randn_like(weight), alpha=0.001)
    file = folder / f"llama-{model.num_parameters() / 1e9:.2f}b.yaml"
    file.write_text(_SEARCH.lstrip(), encoding="utf-8")
    return file


if __name__ == "__main__":
    main()
