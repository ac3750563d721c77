"""How well does a model write with the vocabulary of another one?

    python benchmarks/transplant.py [--quick] [--model DIR] [--donor DIR] [--out runs/transplant]
                                    [--bytes N] [--others DIR ...]

Bits per byte on English prose (paragraphs of docs/ without code) of a model as it is, and with the
donor's vocabulary by `omp` and by `subtokens`; fewer are better. `--others` names models that other
tools made of the two. Before that, the plain pursuit, which looks at all tokens in every step, is
compared with that of evomerge, which does so in every eighth, on 200 tokens of the donor: CPU time,
and what is left of a row (its norm, as a share).

The default are SmolLM2-135M and Qwen2.5-Coder-0.5B of the showcase (`python -m
scripts.real.prepare`). A model that `--out` has is not made again. `--quick` gives an expert of the
embedded family that lacks five words the vocabulary of its base, and scores it on sums; what it
wrote before is not comparable, so the row `before` is the expert with all words. The last line is
one JSON object: row -> bits per byte.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import evomerge
from evomerge import zoo
from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tensors.reader import TensorReader
from evomerge.merging.tokenizers.pursuit import pursue
from evomerge.merging.tokenizers.transplant import Transplant
from evomerge.models.checkpoint import Checkpoint

HERE = Path(__file__).resolve().parents[1]
MODELS = HERE / "runs/showcase/models"
WINDOW = 512
GONE = {"tom", "apples", "5", "12", "buys"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the embedded family")
    parser.add_argument("--model", type=Path, default=MODELS / "base")
    parser.add_argument("--donor", type=Path, default=MODELS / "qwen")
    parser.add_argument("--out", type=Path, default=HERE / "runs/transplant")
    parser.add_argument("--bytes", type=int, default=12_000)
    parser.add_argument("--others", type=Path, nargs="*", default=[])
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        before, text = options.model, prose()[: options.bytes]
        if options.quick:
            before, text, options.donor = zoo.path("maths"), sums(), zoo.path("base")
            options.out, options.model = Path(place), expert(Path(place))
        compare_pursuits(options.model, options.donor)
        rows = {"before": bits_per_byte(before, text)}
        print(f"before: {rows['before']:.3f}", flush=True)
        for by in ("omp", "subtokens"):
            out = options.out / f"{options.model.name}-{options.donor.name}-{by}"
            about = ""
            if not out.exists():
                began = time.process_time()
                done = evomerge.transplant(options.model, options.donor, out, by=by)
                about = (
                    f"; {done.kept} tokens kept, {done.approximated} approximated in "
                    f"{time.process_time() - began:.0f} CPU seconds"
                )
            rows[by] = bits_per_byte(out, text)
            print(f"{by}: {rows[by]:.3f}{about}", flush=True)
        for other in options.others:
            rows[other.name] = bits_per_byte(other, text)
            print(f"{other.name}: {rows[other.name]:.3f}", flush=True)
    print(json.dumps({name: round(value, 4) for name, value in rows.items()}))


def compare_pursuits(model: Path, donor: Path) -> None:
    """Print the time for a token, and what is left of its row, of both kinds of pursuit."""
    one, other = (Checkpoint.open(folder, folder.name) for folder in (model, donor))
    plan = Transplant.of(one, other)
    stored = TensorReader({donor.name: other}).read(SourceTensor(donor.name, str(other.embedding)))
    matrix = as_tensor(stored).float().numpy()
    atoms = matrix[[i for i in plan.kept if i < len(matrix)]]
    missing = [i for i in plan.missing if i < len(matrix)]
    targets = matrix[random.Random(0).sample(missing, min(200, len(missing)))]
    for every in (1, 8):
        began = time.process_time()
        chosen, found = pursue(targets, atoms, 64, every)
        spent = (time.process_time() - began) / len(targets)
        left = targets - (found[..., None] * atoms[chosen]).sum(1)
        share = (np.linalg.norm(left, axis=1) / np.linalg.norm(targets, axis=1)).mean()
        what = "every step" if every == 1 else "every eighth step"
        print(f"all tokens in {what}: {1000 * spent:.1f} ms a token, {share:.3f} left", flush=True)


def prose() -> str:
    """Return the paragraphs of the documentation that have no code, without links."""
    texts = [file.read_text("utf-8") for file in sorted((HERE / "docs").rglob("*.md"))]
    without = (re.sub(r"```.*?```", "", text, flags=re.DOTALL) for text in texts)
    every = [part.strip() for text in without for part in text.split("\n\n")]
    plain = [part for part in every if len(part) > 200 and not re.search(r"[`|<{$]|^[#!-]", part)]
    one_line = (re.sub(r"\[(.*?)\]\(.*?\)", r"\1", " ".join(part.split())) for part in plain)
    return "\n\n".join(one_line)


def sums() -> str:
    """Return questions and answers of the embedded family."""
    file = HERE / "evomerge/zoo/tasks/zoo_maths.jsonl"
    rows = [json.loads(line) for line in file.read_text("utf-8").splitlines()[:100]]
    return " ".join(f"{row['prompt']} {row['answer']}" for row in rows)


def expert(folder: Path) -> Path:
    """Write the embedded expert for sums with the words in another order, without some of them."""
    words, out = folder / "words", folder / "expert"
    words.mkdir()
    data = json.loads((zoo.path("maths") / "tokenizer.json").read_text("utf-8"))
    known = [word for word in data["model"]["vocab"] if word not in GONE]
    order = [*known[:3], *known[:2:-1]]  # the special tokens are first
    data["model"]["vocab"] = {word: i for i, word in enumerate(order)}
    (words / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    settings = (zoo.path("maths") / "tokenizer_config.json").read_text("utf-8")
    (words / "tokenizer_config.json").write_text(settings, "utf-8")
    evomerge.transplant("zoo:maths", words, out, by="subtokens")
    return out


@torch.no_grad()
def bits_per_byte(folder: Path, text: str) -> float:
    """Return the bits that a model needs for a byte of a text, in windows of 512 tokens."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    nats = 0.0
    for start in range(0, len(ids) - 1, WINDOW):
        window = torch.tensor([ids[start : start + WINDOW + 1]])
        logits = model(window[:, :-1]).logits[0]
        nats += torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="sum").item()
    return nats / math.log(2) / len(text.encode())


if __name__ == "__main__":
    main()
