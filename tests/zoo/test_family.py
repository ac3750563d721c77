"""The embedded models are ordinary checkpoints that know the tokens of their tasks."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from scripts.zoo import stories
from scripts.zoo.languages import vocabulary

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("name", zoo.names())
def test_stock_transformers_loads_and_answers(name: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(zoo.path(name))
    model = AutoModelForCausalLM.from_pretrained(zoo.path(name))
    assert model.dtype == torch.float32
    prompt = tokenizer("tom has 7 apples . buys 5 . howmany first ? :", return_tensors="pt")
    out = model.generate(**prompt, max_new_tokens=4, do_sample=False)
    assert tokenizer.decode(out[0, prompt.input_ids.shape[1] :]) == "7 items <eos>"


def test_the_tokenizer_is_the_vocabulary() -> None:
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("base"))
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == vocabulary()
    for documents in stories.task_documents().values():
        for document in documents[:50]:
            ids = tokenizer(document.prompt).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == document.prompt
