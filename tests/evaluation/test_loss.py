"""The loss equals that of plain transformers, and its form is found by what a model prefers."""

from dataclasses import replace

import pytest
import torch
from lm_tasks import asking, requests_of, write_task
from stock_scores import NATS
from transformers import AutoModelForCausalLM

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.inference.rows import ANY, Form
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.evaluation.loss import AnswerKey, Loss
from evomerge.scores import Objective

OBJECTIVES = [Objective("zoo_maths", "exact_match"), Objective("zoo_l2_maths_mc", "acc")]
IDS = {"zoo_maths": list(range(12)), "zoo_l2_maths_mc": list(range(5))}


@pytest.fixture(scope="module")
def model(zoo_maths):
    return zoo_maths[0]


@pytest.fixture(scope="module")
def tokenizer(zoo_maths):
    return zoo_maths[1]


@pytest.fixture(scope="module")
def teacher():
    return AutoModelForCausalLM.from_pretrained(zoo.path("base"), dtype=torch.float32)


@pytest.fixture(scope="module")
def evaluator(model, tokenizer):
    made = asking(Harness(list(IDS), [zoo.tasks_path()]))
    made.prepare(model, tokenizer, {"search": IDS})
    return made


def documents_of(evaluator, task):
    """Return (prompt, document) of each of a task's documents."""
    requests = requests_of(evaluator, task)
    return [(requests[i][0].instance.args[0], requests[i][0].instance.doc) for i in IDS[task]]


def nll(model, tokenizer, prompt, answer):
    before = tokenizer(prompt)["input_ids"]
    after = tokenizer(answer, add_special_tokens=False)["input_ids"]
    scores = model(input_ids=torch.tensor([before + after])).logits[0, :-1].log_softmax(-1)
    return -scores[len(before) - 1 :].gather(-1, torch.tensor(after)[:, None]).sum()


def mean(values):
    """Return what a mean loss must be."""
    return pytest.approx(sum(values) / len(values), rel=1e-4, abs=NATS)


def near(value):
    return pytest.approx(value, rel=1e-3, abs=NATS)


def likelihoods(model, tokenizer, prompt, choices):
    """Return the log-likelihood of each choice, (choices,)."""
    return -torch.stack([nll(model, tokenizer, prompt, f" {text}") for text in choices])


def evaluator_of(folder, model, tokenizer, rows, *metrics, **options):
    """Return an evaluator of a task with choices, which also asks for each without a prompt."""
    fields = {"doc_to_text": "q", "doc_to_choice": "choices", "doc_to_target": "gold"}
    listed = {"metric_list": [{"metric": metric} for metric in metrics]} if metrics else {}
    write_task(folder, "choices", rows, output_type="multiple_choice", **fields, **listed)
    made = asking(Harness(["choices"], [folder]), **options)
    made.prepare(model, tokenizer, {"search": {"choices": range(len(rows))}})
    return made


FORMS = [(True, "token", " ", "<eos>"), (False, "none", "", ""), (True, "stop", " ", "<eos>")]


@pytest.mark.parametrize(("delimiter", "end", "before", "behind"), FORMS)
def test_an_answer_has_the_loss_of_plain_transformers(
    delimiter, end, before, behind, model, tokenizer, evaluator
):
    """Also an answer that takes the place of the reference."""
    loss, key = Loss(evaluator, OBJECTIVES), AnswerKey(forms={ANY: Form(delimiter, end)})
    asked = documents_of(evaluator, "zoo_maths")
    with torch.no_grad():
        texts = ((prompt, f"{before}{document['answer']}{behind}") for prompt, document in asked)
        each = [float(nll(model, tokenizer, *item)) for item in texts]
        other = float(nll(model, tokenizer, asked[3][0], f" 7 7{behind}"))
    assert loss(model, {"zoo_maths": IDS["zoo_maths"]}, key) == mean(each)
    key = replace(key, answers={"zoo_maths": {3: " 7 7"}})
    assert loss(model, {"zoo_maths": [3]}, key) == mean([other])


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"])
def test_choices_are_compared_as_the_metric_compares_them(metric, model, tokenizer, tmp_path):
    """The loss of `acc_mutual_info` is that of `acc`."""
    choices = ["7", "7 7 é", " 7 7 7"]
    rows = [{"q": "7 7", "choices": choices, "gold": 1}]
    metrics = metric, "acc", "acc_mutual_info"
    evaluator = evaluator_of(tmp_path, model, tokenizer, rows, *metrics)
    loss = Loss(evaluator, [Objective("choices", metric)])(model, {"choices": [0]})
    sizes = {"acc_norm": len, "acc_bytes": lambda text: len(text.encode())}
    with torch.no_grad():
        sums = likelihoods(model, tokenizer, "7 7", choices)
    sums /= torch.tensor([float(sizes.get(metric, lambda text: 1)(text)) for text in choices])
    assert loss == mean([-float(sums.log_softmax(0)[1])])


def test_of_several_right_choices_all_count(model, tokenizer, tmp_path):
    """The loss is that of all of them together, and the metric `nll` that of the likeliest one."""
    rows = [
        {"q": "7 7", "choices": ["7", "8", "7 7"], "gold": [0, 2]},
        {"q": "7", "choices": ["7", "8", "9"], "gold": [1]},
    ]
    evaluator = evaluator_of(tmp_path, model, tokenizer, rows, referenced=["choices"])
    loss = Loss(evaluator, [Objective("choices", "acc")])
    found = evaluator.score(model).values["choices/nll"]
    for place, row in enumerate(rows):
        with torch.no_grad():
            sums = likelihoods(model, tokenizer, row["q"], row["choices"])
        right = sums.log_softmax(0)[row["gold"]].exp().sum()
        assert loss(model, {"choices": [place]}) == mean([-float(right.log())])
        assert found[place] == mean([-float(sums[row["gold"]].max())])


def test_the_gradient_is_that_of_the_loss_whatever_the_batches(model, evaluator):
    loss = Loss(evaluator, OBJECTIVES)
    weight = model.model.layers[2].mlp.up_proj.weight
    weight.requires_grad_(True)
    value = loss.backward(model, IDS)
    found, weight.grad = weight.grad.clone(), None
    parts = [loss.backward(model, {task: IDS[task]}) for task in IDS]
    assert value == mean(parts)
    # Elements that nearly cancel have the rounding of the largest ones.
    least = 1e-5 * float(found.abs().max())
    torch.testing.assert_close(weight.grad / 2, found, rtol=1e-3, atol=least)
    assert value == mean([loss(model, IDS)])
    weight.requires_grad_(False)
    weight.grad = None
    weighed = Loss(evaluator, [replace(OBJECTIVES[0], weight=3.0), OBJECTIVES[1]])(model, IDS)
    assert weighed == mean([*parts[:1] * 3, parts[1]])


def test_each_task_has_the_form_that_some_model_finds_likely(
    model, teacher, tokenizer, evaluator, tmp_path
):
    """The model was trained on answers after a blank; in the second task that is in the answer."""
    pairs = ((prompt, own["answer"]) for prompt, own in documents_of(evaluator, "zoo_maths"))
    rows = [{"q": prompt, "a": f" {answer}"} for prompt, answer in pairs]
    fields = {"doc_to_target": "{{a}}", "metric_list": [{"metric": "exact_match"}]}
    write_task(tmp_path, "blank", rows, target_delimiter="\n7 7\n", **fields)
    evaluator_of(tmp_path, model, tokenizer, [{"q": "7", "choices": ["7", "8"], "gold": 0}])
    ids = {"zoo_maths": IDS["zoo_maths"], "blank": range(12), "choices": [0]}
    made = asking(Harness(list(ids), [zoo.tasks_path(), tmp_path]))
    made.prepare(model, tokenizer, {"search": ids})
    objectives = [Objective(task, "exact_match") for task in ids]
    loss = Loss(made, objectives)
    unknown = loss.without_form(ids, {})
    assert unknown.keys() == {"zoo_maths", "blank"}
    key = AnswerKey(forms=loss.choose_forms([teacher, model], unknown))
    assert key.forms["zoo_maths"].delimiter and not key.forms["blank"].delimiter
    assert not loss.without_form(ids, key.forms)
    each = ((task, AnswerKey(forms={ANY: form})) for task, form in key.forms.items())
    parts = [loss(model, {task: ids[task]}, own) for task, own in each]
    assert loss(model, {task: ids[task] for task in unknown}, key) == mean(parts)


def test_a_document_without_an_answer_has_no_loss(evaluator):
    (harness,) = (item.harness for item in evaluator.every)
    with pytest.raises(ConfigError, match="has no reference answer"):
        harness.reference_answer("zoo_maths", {"prompt": "", "answer": " "})
    with pytest.raises(ConfigError, match="which choice is right"):
        harness.right_choices("zoo_l2_maths_mc", {"choices": ["a"], "gold": "b"})


def test_each_objective_of_a_task_has_its_own_loss_and_weight(model, teacher, tokenizer, tmp_path):
    """With one pass through the model: also for a teacher, and for the weights of a front."""
    rows = [{"q": "7 7", "choices": ["7", "7 7 é", " 7 7 7"], "gold": 1}] * 2
    rows[1] = {"q": "7", "choices": ["8 8 8"], "gold": 0}  # a document without a choice
    metrics, documents = ["acc", "acc_norm", "acc_bytes"], {"choices": [0, 1]}
    evaluator = evaluator_of(tmp_path, model, tokenizer, rows, *metrics)
    objectives = [Objective("choices", m, w) for m, w in zip(metrics, (1, 3, 2), strict=True)]
    every = [Loss(evaluator, [item]) for item in objectives]
    loss = Loss(evaluator, objectives)
    for ids in ([0], [0, 1]):
        one, two, three = (each(model, {"choices": ids}) for each in every)
        found = loss(model, {"choices": ids})
        assert found == pytest.approx((one + 3 * two + 2 * three) / 6, rel=1e-5)
        assert abs(one - three) > 0.1
    key = AnswerKey(weights=(0.0, 0.0, 1.0))
    assert loss(model, documents, key) == pytest.approx(three, rel=1e-5)
    for each in (*every, loss):
        each.teach("choices", "base", [0, 1], lambda: teacher)
    one, two, three = (each(model, documents) for each in every)
    assert loss(model, documents) == pytest.approx((one + 3 * two + 2 * three) / 6, rel=1e-5)
    assert loss(teacher, documents) == pytest.approx(0.0, abs=1e-4)


def test_a_taught_text_has_the_divergence_from_the_teacher(model, teacher, tokenizer, evaluator):
    """At each token: over the teacher's 64 most likely tokens, and all others as one."""
    loss, each = Loss(evaluator, OBJECTIVES), []
    loss.teach("zoo_maths", "base", [2, 5], lambda: teacher)
    loss.teach("zoo_maths", "base", [2, 5], pytest.fail)  # it is known
    with torch.no_grad():
        for document in (2, 5):
            prompt = documents_of(evaluator, "zoo_maths")[document][0]
            before = tokenizer(prompt, return_tensors="pt")["input_ids"]
            whole = teacher.generate(before, max_new_tokens=8, do_sample=False)
            both = (one(whole).logits[0, before.shape[1] - 1 : -1] for one in (teacher, model))
            wanted, found = (logits.softmax(-1) for logits in both)
            kept = wanted.topk(64).indices
            parts = [row.gather(-1, kept) for row in (wanted, found)]
            p, q = (torch.cat([row, 1 - row.sum(-1, keepdim=True)], -1) for row in parts)
            each.append(float((p * (p.clamp_min(1e-6).log() - q.clamp_min(1e-6).log())).sum()))
    assert loss(model, {"zoo_maths": [2, 5]}) == near(sum(each) / 2)
    assert loss(teacher, {"zoo_maths": [2, 5]}) == pytest.approx(0.0, abs=1e-4)


def test_taught_choices_have_the_divergence_over_the_choices(model, teacher, tokenizer, evaluator):
    task = "zoo_l2_maths_mc"
    loss, each = Loss(evaluator, OBJECTIVES), []
    loss.teach(task, "base", IDS[task], lambda: teacher)
    with torch.no_grad():
        for prompt, document in documents_of(evaluator, task):
            asked = prompt, document["choices"]
            both = (likelihoods(one, tokenizer, *asked) for one in (teacher, model))
            wanted, found = (own.log_softmax(0) for own in both)
            each.append(float((wanted.exp() * (wanted - found)).sum()))
    assert loss(model, {task: IDS[task]}) == near(sum(each) / len(each))
    assert loss(teacher, {task: IDS[task]}) == pytest.approx(0.0, abs=NATS)
