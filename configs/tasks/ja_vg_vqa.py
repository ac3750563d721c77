"""Questions in Japanese about images (JA-VG-VQA-500), as an objective function of a search.

`PYTHONPATH=configs/tasks` lets Python find it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

MODEL = "llava-hf/llava-v1.6-mistral-7b-hf"
"""The model whose processor cuts images and builds prompts: the host of the search."""


class _Characters:
    """Splits a text into its characters, since words of Japanese have no spaces between them."""

    def tokenize(self, text: str) -> list[str]:
        return list("".join(text.split()))


@cache
def _processor() -> Any:
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(MODEL)


@cache
def _questions() -> Any:
    from datasets import load_dataset

    return load_dataset("SakanaAI/JA-VG-VQA-500", split="test")


def rouge_l(model: Any, tokenizer: Any, documents: Sequence[int]) -> list[float]:
    """Return the scores, 0 to 1, of the answers to the first question about each image.

    They are the F1 of ROUGE-L, over characters.

    Args:
        model: a LLaVA-NeXT model.
        tokenizer: its tokenizer.
        documents: numbers of images, 0 to 499.
    """
    import torch
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Characters())
    scores = []
    for number in documents:
        document = _questions()[number]
        question = document["qas"][0]
        prompt = f"[INST] <image>\n{question['question']} 日本語で答えてください。 [/INST]"
        inputs = _processor()(images=document["image"], text=prompt, return_tensors="pt")
        inputs = inputs.to(model.device, dtype=model.dtype)
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=64, do_sample=False)
        answer = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        scores.append(scorer.score(question["answer"], answer)["rougeL"].fmeasure)
    return scores


rouge_l.documents = 500  # type: ignore[attr-defined]
