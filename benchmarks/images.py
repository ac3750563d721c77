"""Compares the time of a candidate that sees images with and without kept image features.

    python benchmarks/images.py [--quick] [--documents N]

Two models with random weights are scored on pictures of random noise, by lm-eval's own class for
models that see. Each has the sizes of a real one, so the tower takes the share of the time that it
takes there:

- `smolvlm`: SmolVLM-256M, whose tower reads 256 patches here and gives the language model 16.
- `llava`: LLaVA 1.5 7B with a quarter of its width and half of its depth, in the tower as in the
  language model. The tower gives each of its 144 patches to the language model.

`first` is a candidate whose features are computed and kept, `next` one that takes them, `without`
one that keeps nothing. Times are CPU seconds of a candidate on one thread, without the merge, the
minimum of several rounds in turn. `tower` and `rest` are millions of parameters. The answers must
be the same, or it ends with an error. The last line is one JSON object: `without/next` of each
model.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset, disable_progress_bars
from PIL import Image

from evomerge import zoo
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.features import ImageFeatures
from evomerge.evaluation.tasks.harness import Harness
from evomerge.execute.allocator import keep_freed_memory

TASK = {
    "task": "made_pictures",
    "dataset_path": "parquet",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_image": ["picture"],
    "doc_to_text": "<image> what ?",
    "doc_to_target": "answer",
    "generation_kwargs": {"until": ["<eos>"], "max_gen_toks": 4, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
SMOLVLM = {
    "vision_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "patch_size": 16,
        "image_size": 256,
    },
    "text_config": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "scale_factor": 4,
}
LLAVA = {
    "vision_config": {
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 4,
        "patch_size": 14,
        "image_size": 168,
        "projection_dim": 192,
    },
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 2752,
        "num_hidden_layers": 16,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
    },
}


def smaller(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config whose parts have two layers."""
    return {
        key: {**item, "num_hidden_layers": 2} if isinstance(item, dict) else item
        for key, item in config.items()
    }


def make(name: str, quick: bool, folder: Path) -> tuple[Any, Any]:
    """Return a model with random weights and its tokenizer; its processor is saved in `folder`."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.idefics3.image_processing_pil_idefics3 import (
        Idefics3ImageProcessorPil,
    )

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(zoo.path("base"))
    words = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>"]
    tokenizer.add_tokens(words, special_tokens=True)
    ids = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "vocab_size": len(tokenizer)}
    sizes = SMOLVLM if name == "smolvlm" else LLAVA
    sizes = smaller(sizes) if quick else sizes
    sizes = {**sizes, "text_config": {**sizes["text_config"], **ids, "model_type": "llama"}}
    image = tokenizer.convert_tokens_to_ids("<image>")
    processor: Any
    if name == "smolvlm":
        edge = {"longest_edge": 256}
        pixels = Idefics3ImageProcessorPil(size=edge, max_image_size=edge, do_image_splitting=False)
        processor = transformers.Idefics3Processor(pixels, tokenizer, image_seq_len=16)
        config: Any = transformers.Idefics3Config(**sizes, image_token_id=image)
        kind: Any = transformers.Idefics3ForConditionalGeneration
    else:
        square = {"height": 168, "width": 168}
        pixels = CLIPImageProcessorPil(size={"shortest_edge": 168}, crop_size=square)
        processor = transformers.LlavaProcessor(
            pixels,
            tokenizer,
            patch_size=14,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
        )
        sizes["vision_config"] = {**sizes["vision_config"], "model_type": "clip_vision_model"}
        config = transformers.LlavaConfig(**sizes, image_token_index=image)
        kind = transformers.LlavaForConditionalGeneration
    processor.save_pretrained(folder)
    torch.manual_seed(0)
    model = kind(config).eval()
    model.name_or_path = str(folder)
    return model, tokenizer


def write_task(folder: Path, count: int) -> None:
    """Write a task of pictures that are random noise."""
    draw = np.random.default_rng(0)
    pictures = [
        Image.fromarray(draw.integers(0, 256, (256, 256, 3), dtype=np.uint8)) for _ in range(count)
    ]
    file = folder / "pictures.parquet"
    Dataset.from_list([{"picture": item, "answer": "4"} for item in pictures]).to_parquet(file)
    task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(file)}}}
    (folder / "made_pictures.yaml").write_text(json.dumps(task))


def measure(name: str, count: int, rounds: int, quick: bool) -> dict[str, float]:
    """Return the CPU seconds of a candidate in each way, and millions of parameters.

    Raises:
        RuntimeError: the answers are not the same.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model, tokenizer = make(name, quick, folder)
        write_task(folder, count)
        evaluator = Evaluator(Harness(["made_pictures"], [folder]))
        documents = list(range(count))
        evaluator.prepare(model, tokenizer, {"search": {"made_pictures": documents}})
        tower = model.model.get_submodule("vision_model" if name == "smolvlm" else "vision_tower")
        parameters = [sum(map(torch.numel, item.parameters())) / 1e6 for item in (tower, model)]
        best = {"tower": parameters[0], "rest": parameters[1] - parameters[0]}
        texts = []
        for _ in range(rounds):
            features = ImageFeatures(2**30)
            for way in ("first", "next", "without"):
                context = partial(features.kept, tower=None) if way != "without" else nullcontext
                evaluator.set_callbacks(None, context)
                began = time.process_time()
                evaluator.score(model)
                best[way] = min(best.get(way, math.inf), time.process_time() - began)
                texts.append(evaluator.texts("search", "made_pictures", documents))
        if any(item != texts[0] for item in texts):
            raise RuntimeError("kept features change the answers")
    return best


def main() -> None:
    """Print a row for each model, and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two layers, two documents")
    parser.add_argument("--documents", type=int, default=8)
    arguments = parser.parse_args()
    keep_freed_memory()
    disable_progress_bars()
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    count, rounds = (2, 1) if arguments.quick else (arguments.documents, 3)
    ratios = {}
    head = (
        f"{'':10}{'tower':>7}{'rest':>7}{'first':>8}{'next':>8}{'without':>9}{'without/next':>14}"
    )
    print(head)
    for name in ("smolvlm", "llava"):
        best = measure(name, count, rounds, arguments.quick)
        ratios[name] = round(best["without"] / best["next"], 2)
        sizes = f"{best['tower']:7.1f}{best['rest']:7.1f}"
        times = f"{best['first']:8.2f}{best['next']:8.2f}{best['without']:9.2f}"
        print(f"{name:10}{sizes}{times}{ratios[name]:14.2f}", flush=True)
    print(json.dumps({"without/next": ratios}))


if __name__ == "__main__":
    main()
