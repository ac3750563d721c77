"""Trains the model that sees: it answers questions in L1 about pictures.

    python -m scripts.real.seeing

It is a LLaVA: a new vision tower and projector before the embedded base model, which is trained
with them and has never seen a word of L2. Training uses one CPU thread and fixed seeds, so it gives
the same files each time, on the same kind of machine and with the same versions of packages.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from itertools import islice
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from evomerge import zoo
from scripts.real import pictures
from scripts.real.pictures import PLACE, PLACES, SIDE, Question, Scene
from scripts.real.places import MODELS
from scripts.zoo import stories
from scripts.zoo.languages import EOS, L1

_STEPS, _BATCH, _TEXTS, _RATE, _NOISE = 900, 48, 8, 2e-3, 0.4
_IGNORED = -100


def untrained() -> tuple[Any, Any]:
    """Return the base model behind a random vision tower, and the processor for it."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    tokenizer: Any = AutoTokenizer.from_pretrained(zoo.path("base"))
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    square = {"height": SIDE, "width": SIDE}
    make: Any = LlavaProcessor
    processor = make(
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square),
        tokenizer,
        patch_size=PLACE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    language = LlamaForCausalLM.from_pretrained(zoo.path("base"))
    torch.manual_seed(0)
    language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tower = CLIPVisionConfig(
        image_size=SIDE,
        patch_size=PLACE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=64,
    )
    config = LlavaConfig(
        vision_config=tower,
        text_config=language.config,
        image_token_index=len(tokenizer) - 1,
        vision_feature_layer=-1,
    )
    model: Any = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    model.generation_config = language.generation_config
    _scale(model, processor)
    return model, processor


@torch.no_grad()
def _scale(model: Any, processor: Any) -> None:
    """Scale the projector so that features of pictures are as large as embeddings of words."""
    some = islice(pictures.questions(L1, "experts", "scale"), 16)
    features = torch.cat(_features(model, processor, [item.scene for item in some]))
    deviation = model.get_input_embeddings().weight.std()
    model.model.multi_modal_projector.linear_2.weight *= deviation / features.std()


def _features(model: Any, processor: Any, scenes: list[Scene]) -> Any:
    images = [pictures.picture(scene) for scene in scenes]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    return model.model.get_image_features(pixels).pooler_output


def _rows(prompts: list[str], answers: list[str], tokenizer: Any) -> tuple[Any, Any]:
    """Return ids and labels, padded on the right; `<image>` stands for all places of a picture."""
    places = "<image>" * PLACES
    asked = [tokenizer(text.replace("<image>", places))["input_ids"] for text in prompts]
    told = [tokenizer(f"{text} {EOS}")["input_ids"] for text in answers]
    longest = max(len(a) + len(b) for a, b in zip(asked, told, strict=True))
    ids = torch.full((len(asked), longest), tokenizer.pad_token_id)
    labels = torch.full((len(asked), longest), _IGNORED)
    for row, (before, after) in enumerate(zip(asked, told, strict=True)):
        end = len(before) + len(after)
        ids[row, :end] = torch.tensor(before + after)
        labels[row, len(before) : end] = torch.tensor(after)
    return ids, labels


def train() -> None:
    """Train the model and save it in `models/sees`; nothing if it is there.

    Embeddings and head stay those of the base, and the embeddings get noise, as for the embedded
    experts: then a merge can change the language. A quarter of the questions are about texts.
    """
    out = MODELS / "sees"
    if (out / "training.json").exists():
        return
    torch.set_num_threads(1)
    started = time.process_time()
    model, processor = untrained()
    tokenizer, generator = processor.tokenizer, torch.Generator().manual_seed(0)
    embeddings = model.get_input_embeddings()
    for table in (embeddings, model.lm_head):
        table.requires_grad_(False)
    deviation = float(embeddings.weight.std())
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=_RATE, betas=(0.9, 0.98), weight_decay=0.01)
    warm = _STEPS // 20
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / _STEPS)),
    )
    seen, draw = pictures.questions(L1, "experts", 0), random.Random(0)
    ask, losses = stories.language_question(L1), []
    model.train()
    for step in range(_STEPS):
        some: list[Question] = list(islice(seen, _BATCH))
        texts = [stories.training_document(ask, draw) for _ in range(_TEXTS)]
        prompts = [item.prompt for item in some] + [item.prompt for item in texts]
        answers = [item.answer for item in some] + [item.answer for item in texts]
        ids, labels = _rows(prompts, answers, tokenizer)
        embedded = embeddings(ids)
        noise = torch.randn(embedded.shape, generator=generator) * _NOISE * deviation
        features = torch.cat(_features(model, processor, [item.scene for item in some]))
        mask = (ids == model.config.image_token_index)[..., None].expand_as(embedded)
        embedded = (embedded + noise).masked_scatter(mask, features)
        hidden = model.model.language_model(inputs_embeds=embedded).last_hidden_state
        logits = model.lm_head(hidden)[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(round(float(loss.detach()), 4))
        if step % 50 == 0:
            print(step, losses[-1], round(time.process_time() - started, 1), flush=True)
    shutil.rmtree(out, ignore_errors=True)
    model.eval().requires_grad_(True)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    seconds = round(time.process_time() - started, 1)
    (out / "training.json").write_text(
        json.dumps({"cpu_seconds": seconds, "losses": losses}) + "\n"
    )
    print(f"sees: {seconds} CPU seconds, loss {losses[0]:.3f} -> {losses[-1]:.3f}")


def prepare() -> None:
    """Train the model and write the task that merges of it are scored on."""
    train()
    pictures.write()


if __name__ == "__main__":
    prepare()
