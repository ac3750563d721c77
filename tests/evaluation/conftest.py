"""Fixtures: tiny models of several architectures, and tasks of every request type."""

import json
import random

import lm_eval
import lm_eval.evaluator
import pytest
import torch
import yaml
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from evomerge import zoo

WORDS = (
    *("the", "red", "green", "blue", "cat", "dog", "bird", "eats", "sees", "likes", "a", "big"),
    *("small", "fish", "tree", "house", "no", "yes"),
)
CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE = {
    "vocab_size": 384,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
ARCHITECTURES = {
    "llama": {},
    "mistral": {"sliding_window": 12},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
    "gemma2": {"head_dim": 8, "sliding_window": 12, "query_pre_attn_scalar": 8},
    "gpt_neox": {"num_key_value_heads": None},
    "bloom": {"n_layer": 3, "n_head": 4},
    "mamba": {"state_size": 8, "intermediate_size": 64},
    "phi3": {
        "original_max_position_embeddings": 36,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4},
    },
    "llama4_text": {
        "attention_chunk_size": 36, "head_dim": 8, "intermediate_size_mlp": 64,
        "num_local_experts": 2, "interleave_moe_layer_step": 2,
    },
}  # fmt: skip
COMMON = {
    "dataset_path": "json",
    "test_split": "test",
    "fewshot_split": "train",
    "doc_to_text": "Question: {{question}}\nAnswer:",
}
MEAN = {"aggregation": "mean", "higher_is_better": True}
TASKS = yaml.safe_load(r"""
t_choice: &choice {output_type: multiple_choice, doc_to_choice: choices, doc_to_target: label,
  means: [acc, acc_norm]}
t_letter: {<<: *choice, doc_to_text: "{{question}} a or b?", doc_to_choice: [a, b],
  doc_to_target: "{{level}}", means: [acc], others: [{metric: f1}, {metric: brier_score}]}
t_mutual: {<<: *choice, means: [acc_mutual_info]}
t_inputs: {<<: *choice, means: [], doc_to_text: level, doc_to_choice: options,
  doc_to_target: "{{answer}}"}
t_continue: {output_type: loglikelihood, doc_to_target: " {{answer}}"}
t_rolling: {output_type: loglikelihood_rolling, doc_to_text: "", doc_to_target: "{{text}}"}
t_generate: &generate {output_type: generate_until, doc_to_target: "{{answer}}",
  generation_kwargs: {until: ["\n", " the"], max_gen_toks: 12}}
t_filters: {<<: *generate, means: [exact_match], filter_list: [
  {name: strict, filter: [&first {function: take_first}]},
  {name: first-word, filter: [{function: regex, regex_pattern: '(\w+)'}, *first]}]}
t_sample: {<<: *generate, generation_kwargs: {until: ["\n"], max_gen_toks: 6, do_sample: true,
  temperature: 0.7}}
""")


def sentence(rng, low=3, high=9):
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))


@pytest.fixture(scope="session")
def tokenizer():
    rng = random.Random(0)
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([sentence(rng) for _ in range(300)], trainer)
    core.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    made.chat_template = CHAT
    return made


def tiny(kind, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    shape = {k: v for k, v in {**SHAPE, **ARCHITECTURES[kind]}.items() if v is not None}
    config = AutoConfig.for_model(kind, **shape)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    model.generation_config.eos_token_id = 2
    return model


@pytest.fixture(scope="session")
def by_lm_eval():
    """Return what scores by stock lm-eval, without its look at the machine in new processes."""

    def scored(lm, folder, names, ids=None, **options):
        samples = ids if ids is None or isinstance(ids, dict) else {key: list(ids) for key in names}
        if samples:  # since lm-eval 0.5 also by the path to a task of a group
            samples |= {f"{name}::{task}": of for name in names for task, of in samples.items()}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lm_eval.evaluator, "add_env_info", lambda report: None)
            patch.setattr(lm_eval.evaluator, "get_git_commit_hash", lambda: None)
            manager = TaskManager(include_path=str(folder), include_defaults=False)
            options |= {"samples": samples, "bootstrap_iters": 0, "log_samples": True}
            return lm_eval.simple_evaluate(lm, tasks=list(names), task_manager=manager, **options)

    return scored


@pytest.fixture(scope="session")
def make_model():
    return tiny


@pytest.fixture(scope="session")
def llama():
    return tiny("llama")


@pytest.fixture(scope="session")
def zoo_maths():
    """An embedded model and its tokenizer."""
    place = zoo.path("maths")
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(place)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory):
    """A folder with a task of each request type, 40 documents each, and groups, also nested."""
    folder = tmp_path_factory.mktemp("tasks")
    rng = random.Random(1)
    rows = []
    for number in range(40):
        choices = [sentence(rng, 1, 4) for _ in range(rng.randint(2, 4))]
        rows.append(
            {
                "question": f"{sentence(rng)}?",
                "choices": choices,
                "label": rng.randrange(len(choices)),
                "answer": choices[0],
                "text": sentence(rng, 1, 120),
                "level": number % 2,
                "options": [f"{sentence(rng)} yes", f"{sentence(rng)} no no"],
            }
        )
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = {"data_files": {"test": str(data), "train": str(data)}}
    for name, body in TASKS.items():
        means = [{"metric": metric, **MEAN} for metric in body.get("means", ())]
        listed = {"metric_list": means + body.get("others", [])} if means else {}
        own = {key: value for key, value in body.items() if key not in ("means", "others")}
        task = {"task": name, "dataset_kwargs": files, **COMMON, **own, **listed}
        (folder / f"{name}.yaml").write_text(json.dumps(task))
    for name, members, by_size in (
        ("g_sizes", ["t_choice", "t_letter"], True),
        ("g_plain", ["t_letter", "t_choice"], False),
        ("g_nested_sizes", ["g_sizes", "g_plain", "t_letter", "t_inputs"], True),
        ("g_nested", ["g_sizes", "g_plain", "t_letter", "t_inputs"], False),
    ):
        average = [{"metric": "acc", "aggregation": "mean", "weight_by_size": by_size}]
        body = {"group": name, "task": members, "aggregate_metric_list": average}
        (folder / f"{name}.yaml").write_text(json.dumps(body))
    return folder
