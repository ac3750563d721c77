"""Chat templates with a name, and vocabularies that are cut to the smallest one."""

from functools import partial

import pytest
import tiny
import torch
from safetensors.torch import load_file
from tiny import VOCABULARY, WORDS
from transformers import AutoTokenizer

from evomerge.errors import CheckpointError
from evomerge.export.checkpoint import merge_recipe
from evomerge.merging.tokenizers.plan import TEMPLATES, choose_template
from evomerge.models.safetensors import read_json

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
        chat_template=choose_template(name, [], None),
        add_generation_prompt=True,
        tokenize=False,
    )
    assert render(CHAT) == PROMPTS[name]
    system = "[|system|][|endofturn|]\n" if name == "exaone" else ""
    alone = PROMPTS[name].replace("S\n\n", "").replace("[|system|]S[|endofturn|]\n", system)
    assert name in ("chatml", "llama3") or render(CHAT[1:]) == alone


def file_of_two(folder, words):
    """Return a mergekit file of two models, of which the second one has more rows."""
    tiny.make(folder / "one", seed=1)
    tiny.make(folder / "two", seed=2, vocab_size=VOCABULARY + 3, tokenizer=False)
    tiny.save_tokenizer(folder / "two", words)
    file = folder / "merge.yml"
    file.write_text(
        f"merge_method: linear\nmodels: [{{model: {folder}/two}}, {{model: {folder}/one}}]\n"
        "parameters: {weight: 0.5}\n"
    )
    return file


def test_rows_that_a_parent_lacks_are_cut_off_with_a_warning(tmp_path):
    file = file_of_two(tmp_path, [*WORDS, "x", "y", "z"])
    with pytest.raises(CheckpointError, match="their vocabularies differ"):
        merge_recipe(file, tmp_path / "refused", "8GB", "5GB")
    (note,) = merge_recipe(file, tmp_path / "out", "8GB", "5GB", truncate=True)
    assert f"rows are cut to {VOCABULARY}" in note
    again = tmp_path / "out" / "evomerge_recipe.yaml"
    merge_recipe(again, tmp_path / "again", "8GB", "5GB")
    names = ("one", "two", "out", "again")
    one, two, out, same = (load_file(tmp_path / n / "model.safetensors") for n in names)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        torch.testing.assert_close(out[name], (one[name] + two[name][:VOCABULARY]) / 2)
        assert torch.equal(out[name], same[name])
    assert read_json(tmp_path / "out" / "config.json")["vocab_size"] == VOCABULARY
    assert not (tmp_path / "again" / "mergekit_config.yml").exists()
