"""The chat templates that have names: prompts in the published formats."""

from __future__ import annotations

from functools import partial

import pytest
import tiny
from transformers import AutoTokenizer

from evomerge.merging.tokenizers.templates import TEMPLATES

CHAT = [
    {"role": "system", "content": "S"},
    {"role": "user", "content": "U"},
    {"role": "assistant", "content": "A"},
    {"role": "user", "content": "V"},
]
PROMPTS = {
    "chatml": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    "llama3": (
        "<bos><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "alpaca": (
        "S\n\n### Instruction:\nU\n\n### Response:\nA\n\n### Instruction:\nV\n\n### Response:\n"
    ),
    "mistral": "<bos>[INST] S\n\nU [/INST] A<eos>[INST] V [/INST]",
    "exaone": (
        "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n[|assistant|]"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_write_the_published_formats(name, tmp_path):
    tiny.save_tokenizer(tmp_path)
    render = partial(
        AutoTokenizer.from_pretrained(tmp_path).apply_chat_template,
        chat_template=TEMPLATES[name],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert render(CHAT) == PROMPTS[name]
    system = "[|system|][|endofturn|]\n" if name == "exaone" else ""
    alone = PROMPTS[name].replace("S\n\n", "").replace("[|system|]S[|endofturn|]\n", system)
    assert name in ("chatml", "llama3") or render(CHAT[1:]) == alone
