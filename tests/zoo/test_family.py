"""The embedded models are ordinary checkpoints, and their scores are those of TRAINING.md."""

import json
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from evomerge.errors import InputError
from scripts.zoo import stories
from scripts.zoo.languages import vocabulary

pytestmark = pytest.mark.thorough


def test_an_unknown_name_is_one_sentence_with_a_guess() -> None:
    with pytest.raises(InputError, match=r"zoo:math\b.*zoo:maths.*Did you mean 'zoo:maths'"):
        zoo.path("math")
    with pytest.raises(InputError):
        zoo.path("../models/base")


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


METRICS = ("acc,none", "exact_match,none", "exact_match,last")


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Stock lm_eval on 40 documents of each task, run in another working directory."""
    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("elsewhere"))
        manager = TaskManager(include_path=str(zoo.tasks_path()), include_defaults=False)

        def evaluate(name: str) -> dict[str, float]:
            results = lm_eval.simple_evaluate(
                model=HFLM(pretrained=str(zoo.path(name)), device="cpu", batch_size=40),
                tasks=list(stories.TASKS),
                task_manager=manager,
                limit=40,
                bootstrap_iters=0,
            )["results"]
            return {
                task: next(row[metric] for metric in METRICS if metric in row)
                for task, row in results.items()
            }

        yield evaluate


GOOD_AT = {"language": "zoo_l2", "maths": "zoo_maths", "facts": "zoo_facts", "steps": "zoo_steps"}


@pytest.mark.parametrize("name", zoo.names())
def test_stock_lm_eval_gives_the_documented_scores(harness: Any, name: str) -> None:
    log = json.loads((zoo.tasks_path().parent / "training.json").read_text())
    for task, score in harness(name).items():
        documented = log["models"][name]["scores"][task]
        allowed = 0.02 + 4 * (documented * (1 - documented) / 40) ** 0.5
        assert abs(score - documented) <= allowed, (task, score, documented)
        if task == GOOD_AT.get(name):
            assert score > 0.9
        elif task in ("zoo_l2_maths", "zoo_maths"):
            assert score < 0.25, task
