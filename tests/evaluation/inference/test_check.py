"""A model that is wrong in one of the fast ways is not run in it."""

import functools
import json

import pytest
import torch
from lm_tasks import asking, requests_of, runner_of

from evomerge.evaluation.inference.forward import continuation_rows
from evomerge.evaluation.inference.probes import positions_of
from evomerge.evaluation.lm_eval.tasks import Harness

NAMES = ("t_choice", "t_letter", "t_rolling", "t_generate")
WORDS = ("green", "blue", "dog", "fish")
DOCUMENTS = dict.fromkeys(NAMES, range(12))


@pytest.fixture(scope="module")
def folder(tasks, tmp_path_factory):
    """A folder with tasks whose documents share their examples."""
    made = tmp_path_factory.mktemp("shared")
    for name in NAMES:
        body = json.loads((tasks / f"{name}.yaml").read_text())
        body |= {"fewshot_config": {"sampler": "first_n"}} if name != "t_rolling" else {}
        (made / f"{name}.yaml").write_text(json.dumps(body))
    return made


@pytest.fixture
def ways(make_model, tokenizer, folder):
    """Return the ways that are chosen for a model whose calls are changed."""

    def chosen(change=None, model=None):
        model = model or make_model("llama")
        if change is not None:
            plain = model.forward

            @functools.wraps(plain)
            def forward(**options):
                change(options)
                return plain(**options)

            model.forward = forward
        evaluator = asking(Harness(NAMES, [folder], fewshot=3))
        evaluator.prepare(model, tokenizer, {"search": DOCUMENTS})
        forward = runner_of(evaluator).forward
        names = ("packed", "gather", "shared", "own_loop")
        return evaluator, {name for name in names if getattr(forward, name)}

    return chosen


def read(options):
    """Return how many rows, how many tokens of each, and how many cached ones a call reads."""
    cache = options.get("cache", options.get("past_key_values"))
    return (*options["input_ids"].shape, 0 if cache is None else cache.get_seq_length())


def mask_of_rows_without_effect(options):
    if "attention_mask" in options and options["attention_mask"].dim() == 4:
        del options["attention_mask"]


def positions_of_rows_without_effect(options):
    if "attention_mask" in options and options["attention_mask"].dim() == 4:
        del options["position_ids"]


def start_of_long_rows_unread(options):
    _, length, cached = read(options)
    mask = options.get("attention_mask")
    if mask is not None and mask.dim() == 4 and not cached and length > 100:
        mask[..., :8] = torch.finfo(torch.float32).min


def branches_behind_a_prefix_moved(options):
    _, length, cached = read(options)
    if cached and length > 1:
        options["position_ids"] = options["position_ids"] + 1


def padding_read_on_the_right(options):
    rows, _, _ = read(options)
    if "attention_mask" not in options and rows > 1:
        options["input_ids"] = options["input_ids"].roll(1, -1)


def padding_read_on_the_left(options):
    if "attention_mask" in options and options["attention_mask"].dim() == 2:
        options["attention_mask"] = torch.ones_like(options["attention_mask"])


def new_tokens_moved(options):
    _, length, cached = read(options)
    if cached and length == 1:
        options["position_ids"] = options["position_ids"] + 1


def second_of_new_tokens_moved(options):
    mask = options.get("attention_mask")
    if mask is not None and mask.dim() == 2 and int(mask[0].sum()) > read(options)[1] + 1:
        options["position_ids"] = options["position_ids"] + 1


def dropped_rows_mixed():
    last = [1]

    def change(options):
        rows, length, cached = read(options)
        if cached and length == 1 and rows < last[0]:
            options["input_ids"] = options["input_ids"] ^ 1
        last[0] = rows

    return change


ALL = {"packed", "gather", "shared", "own_loop"}
FAULTS = [
    (mask_of_rows_without_effect, {"packed"}),
    (positions_of_rows_without_effect, {"packed"}),
    (start_of_long_rows_unread, {"packed"}),
    (branches_behind_a_prefix_moved, {"shared"}),
    (padding_read_on_the_right, {"packed", "gather"}),
    (padding_read_on_the_left, {"own_loop"}),
    (new_tokens_moved, {"own_loop"}),
    (second_of_new_tokens_moved, {"own_loop"}),
    (dropped_rows_mixed(), {"own_loop"}),
]


@pytest.mark.parametrize(("fault", "wrong"), FAULTS)
def test_a_fault_of_a_model_closes_the_way_that_it_spoils(ways, fault, wrong):
    assert not wrong & ways(fault)[1]


def test_a_model_without_a_fault_is_run_in_all_fast_ways(ways):
    assert ways()[1] == ALL


def test_a_head_that_needs_whole_rows_gets_them(ways, make_model):
    model = make_model("llama")
    model.lm_head.register_forward_hook(lambda *a: a[-1] * 2 if a[-1].dim() == 2 else a[-1])
    assert ways(model=model)[1] == ALL - {"gather"}


def test_a_window_behind_the_longest_prompt_is_looked_at(ways, make_model):
    """The cache drops what is before the window, which this model reads."""
    evaluator, chosen = ways()
    requests = requests_of(evaluator, "t_generate").values()
    longest = max(len(request.prompts[0].tokens) for (request,) in requests)
    model = make_model("llama")
    model.config.sliding_window = longest + 6
    assert chosen == ALL and "own_loop" not in ways(model=model)[1]


def test_the_longest_continuation_is_looked_at_where_another_row_is_longer(
    make_model, tokenizer, tasks, tmp_path
):
    """Here the row with the most tokens has four long branches after a short question."""
    body = json.loads((tasks / "t_choice.yaml").read_text())
    rows = [
        {"question": "the cat?", "choices": [f"{word} " + "red " * 18 for word in WORDS]},
        {"question": "the bird eats " * 10, "choices": [f"{word} big fish" for word in WORDS]},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row | {"label": 0}) + "\n" for row in rows))
    body["dataset_kwargs"] = {"data_files": {"test": str(data), "train": str(data)}}
    (tmp_path / "t_choice.yaml").write_text(json.dumps(body))
    model, plain = make_model("llama"), make_model("llama").forward

    def forward(**options):
        positions = options.get("position_ids")
        if positions is not None:
            options["position_ids"] = positions.clamp(max=40)
        return plain(**options)

    model.forward = functools.wraps(plain)(forward)
    evaluator = asking(Harness(["t_choice"], [tmp_path]))
    evaluator.prepare(model, tokenizer, {"search": {"t_choice": range(2)}})
    requests = [requests_of(evaluator, "t_choice")[document] for document in range(2)]
    wide, long = continuation_rows(requests, packed=True)
    assert len(wide) > len(long) and positions_of(wide) <= 40 < positions_of(long)
    assert not runner_of(evaluator).forward.packed
