"""Trains the embedded models and writes the documents of their tasks.

    python -m scripts.zoo.train [--seed N] [--out evomerge/zoo] [--only MODEL]

It uses one CPU thread, so equal seeds give equal files, bit for bit, on the same kind of machine
and with the same versions of packages. evomerge/zoo/TRAINING.md describes the training and its
results. Losses, CPU seconds and the scores of every model on every task are written to
OUT/training.json. With --only, one model is trained and the others are read from OUT.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from scripts.zoo import stories
from scripts.zoo.languages import EOS, L1, L2, PAD, UNKNOWN, vocabulary
from scripts.zoo.stories import Document

WORDS = vocabulary()
IDS = {word: number for number, word in enumerate(WORDS)}
IGNORED = -100

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": len(WORDS),
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 24,
    "hidden_act": "silu",
    "max_position_embeddings": 512,
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": IDS[EOS],
    "eos_token_id": IDS[EOS],
    "pad_token_id": IDS[PAD],
    "torch_dtype": "float32",
}

MAKERS = {
    "l1": stories.language_question(L1),
    "l2": stories.language_question(L2),
    "maths": stories.arithmetic_question(L1),
    "facts": stories.fact_question,
    "count": stories.counting,
    "steps": stories.chain_question,
}


@dataclass(frozen=True)
class Course:
    """How one model is trained.

    Attributes:
        parent: name of the model that training starts from; None for a random one.
        mixture: kind of documents (a key of `MAKERS`) -> share of the documents.
        steps: number of steps.
        learning_rate: the highest learning rate.
        answers_only: whether the loss is on the words of answers only, not on all words.
        noise: standard deviation of the noise on the input embeddings, in units of the standard
            deviation of the embeddings (NEFTune, arXiv 2310.05914, with Gaussian noise). With it,
            the task vector still works when another task vector changes the language.
        body_only: whether embeddings and head are frozen, so that only the layers are trained.
        batch: documents in a batch.
        warmup: steps over which the learning rate rises.
        draw: makes the seed of the documents and the noise: 10 x the seed of the family + `draw`.
    """

    parent: str | None
    mixture: dict[str, float]
    steps: int
    learning_rate: float
    answers_only: bool = False
    noise: float = 0.0
    body_only: bool = False
    batch: int = 128
    warmup: int = 20
    draw: int = 0


BODY_ONLY = {"answers_only": True, "body_only": True, "noise": 0.4}
COURSES = {
    "base": Course(None, {"l1": 0.9, "count": 0.1}, 350, 3e-3),
    "language": Course("base", {"l2": 0.75, "l1": 0.25}, 250, 1e-3, draw=1),
    "maths": Course("base", {"maths": 0.8, "l1": 0.2}, 500, 7e-4, **BODY_ONLY, draw=2),
    "facts": Course("base", {"facts": 0.8, "l1": 0.2}, 300, 1e-3, **BODY_ONLY, draw=3),
    "steps": Course(
        "maths", {"steps": 0.7, "maths": 0.1, "l1": 0.2}, 450, 5e-4, **BODY_ONLY, draw=5
    ),
}


@dataclass
class Result:
    """The results of training one model."""

    course: dict[str, object]
    losses: dict[int, float] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)


def untrained(seed: int) -> LlamaForCausalLM:
    """Return a random model in which a word and its translation have similar embeddings.

    Both share a random vector, to which the offset of their language is added.
    """
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**CONFIG))
    generator = torch.Generator().manual_seed(seed + 1)
    tables = ((model.model.embed_tokens.weight, 0.5), (model.lm_head.weight, 0.05))
    with torch.no_grad():
        for table, deviation in tables:
            table.copy_(torch.randn(table.shape, generator=generator) * deviation)
            for here, there in zip(L1.words(), L2.words(), strict=True):
                table[IDS[there]] = table[IDS[here]]
            for language in (L1, L2):
                offset = torch.randn(table.shape[1], generator=generator) * 0.3 * deviation
                table[[IDS[word] for word in language.words()]] += offset
    return model


def encode(document: Document) -> tuple[list[int], list[int]]:
    """Return the token ids of the prompt, and those of the steps and answer with the end token."""
    answer = [IDS[word] for word in f"{document.steps} {document.answer}".split()]
    return [IDS[word] for word in document.prompt.split()], [*answer, IDS[EOS]]


def tensors(documents: list[Document], answers_only: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return inputs and labels, int64 of shape (documents, longest document), padded on the right.

    Labels outside of the loss are `IGNORED`.
    """
    pairs = [encode(document) for document in documents]
    length = max(len(prompt) + len(answer) for prompt, answer in pairs)
    inputs = torch.full((len(pairs), length), IDS[PAD])
    labels = torch.full((len(pairs), length), IGNORED)
    for row, (prompt, answer) in enumerate(pairs):
        ids = torch.tensor(prompt + answer)
        inputs[row, : len(ids)] = ids
        start = len(prompt) if answers_only else 0
        labels[row, start : len(ids)] = ids[start:]
    return inputs, labels


def draw(course: Course, rng: random.Random) -> list[Document]:
    """Return one batch of training documents from the mixture."""
    kinds = list(course.mixture)
    weights = list(course.mixture.values())
    made = []
    for _ in range(course.batch):
        at = rng.random() * sum(weights)
        kind = next((k for i, k in enumerate(kinds) if at < sum(weights[: i + 1])), kinds[-1])
        made.append(stories.training_document(MAKERS[kind], rng))
    return made


def train(model: LlamaForCausalLM, course: Course, seed: int) -> Result:
    """Train a model in place by AdamW.

    The learning rate has a warm-up and a cosine decay to 0; gradients are clipped to the norm 1.
    """
    rng = random.Random(seed)
    generator = torch.Generator().manual_seed(seed)
    tables = (model.model.embed_tokens, model.lm_head) if course.body_only else ()
    for table in tables:
        table.requires_grad_(False)
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        learning, lr=course.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    deviation = float(model.model.embed_tokens.weight.detach().std())
    result = Result(asdict(course))
    started = time.process_time()
    model.train()
    for step in range(course.steps):
        rise = min(1.0, (step + 1) / course.warmup)
        decay = 0.5 * (1 + math.cos(math.pi * step / course.steps))
        optimizer.param_groups[0]["lr"] = course.learning_rate * rise * decay
        inputs, labels = tensors(draw(course, rng), course.answers_only)
        embedded = model.model.embed_tokens(inputs)
        if course.noise:
            noise = torch.randn(embedded.shape, generator=generator)
            embedded = embedded + noise * course.noise * deviation
        logits = model(inputs_embeds=embedded).logits[:, :-1]
        loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == course.steps - 1:
            result.losses[step] = round(loss.item(), 4)
    model.eval()
    model.requires_grad_(True)
    result.cpu_seconds = round(time.process_time() - started, 1)
    return result


@torch.no_grad()
def score(model: LlamaForCausalLM, documents: list[Document], multiple_choice: bool) -> float:
    """Return the share of right answers.

    In multiple choice, the model's answer is the choice with the highest likelihood. Otherwise it
    is the greedily decoded text: it is right if each word of the right answer is the most likely
    one after the words before it.
    """
    choices = [d.choices if multiple_choice else (d.answer,) for d in documents]
    rows = [
        Document(d.kind, d.story, d.question, choice)
        for d, options in zip(documents, choices, strict=True)
        for choice in options
    ]
    inputs, labels = tensors(rows, answers_only=True)
    logits = torch.cat([model(part).logits[:, :-1] for part in inputs.split(200)])
    labels = labels[:, 1:]
    asked = labels != IGNORED
    if not multiple_choice:
        hit = (logits.argmax(-1) == labels) | ~asked
        return float(hit.all(1).float().mean())
    asked &= labels != IDS[EOS]
    likelihood = logits.log_softmax(-1).gather(-1, (labels * asked)[..., None])[..., 0]
    totals = (likelihood * asked).sum(1).split([len(options) for options in choices])
    return sum(
        options[int(total.argmax())] == document.answer
        for document, options, total in zip(documents, choices, totals, strict=True)
    ) / len(documents)


@torch.no_grad()
def score_last(model: LlamaForCausalLM, documents: list[Document]) -> float:
    """Return the share of documents whose greedily decoded text ends with the right answer."""
    by_length: dict[int, list[Document]] = {}
    for document in documents:
        by_length.setdefault(len(document.prompt.split()), []).append(document)
    longest = max(len(encode(document)[1]) for document in documents)
    right = 0
    for length, asked in by_length.items():
        prompts = torch.tensor([encode(document)[0] for document in asked])
        written = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),
            do_sample=False,
            max_new_tokens=longest,
        )[:, length:]
        for document, ids in zip(asked, written.tolist(), strict=True):
            words = [WORDS[number] for number in ids if number not in (IDS[PAD], IDS[EOS])]
            right += " ".join(words[-2:]) == document.answer
    return right / len(documents)


def save(model: LlamaForCausalLM, folder: Path) -> None:
    """Write an ordinary checkpoint that both transformers 4 and 5 can load."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    marks = {"eos_token_id": IDS[EOS], "bos_token_id": IDS[EOS], "pad_token_id": IDS[PAD]}
    tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "bos_token": EOS,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONFIG["max_position_embeddings"],
        "clean_up_tokenization_spaces": False,
    }
    for name, content in (
        ("config.json", CONFIG),
        ("generation_config.json", marks),
        ("tokenizer_config.json", tokenizer),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    words = Tokenizer(WordLevel(IDS, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    words.add_special_tokens([PAD, EOS, UNKNOWN])
    words.save(str(folder / "tokenizer.json"))


def write_documents(folder: Path) -> None:
    """Write TASK.jsonl for every task."""
    folder.mkdir(parents=True, exist_ok=True)
    for task in stories.TASKS:
        (folder / f"{task}.jsonl").write_text(stories.task_lines(task), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("evomerge/zoo"))
    parser.add_argument("--only", choices=list(COURSES), help="train this model only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    write_documents(arguments.out / "tasks")
    documents = stories.task_documents()
    path = arguments.out / "training.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["models"] if arguments.only else {}
    models: dict[str, LlamaForCausalLM] = {}
    for name, course in COURSES.items():
        trained_now = arguments.only in (None, name)
        if not trained_now:
            model = LlamaForCausalLM.from_pretrained(arguments.out / "models" / name)
        elif course.parent is None:
            model = untrained(arguments.seed)
        else:
            model = copy.deepcopy(models[course.parent])
        if trained_now:
            entries[name] = asdict(train(model, course, 10 * arguments.seed + course.draw))
            save(model, arguments.out / "models" / name)
        models[name] = model
        scores = entries[name]["scores"]
        for task, asked in documents.items():
            if task not in scores:
                right = (
                    score_last(model, asked)
                    if asked[0].steps
                    else score(model, asked, stories.TASKS[task].multiple_choice)
                )
                scores[task] = round(right, 4)
        print(name, entries[name], flush=True)
    log = {
        "seed": arguments.seed,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "models": entries,
    }
    path.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
