"""The properties of tasks that are known before a model runs, and the tasks that are refused."""

import lm_eval.tasks
import pytest
from lm_tasks import asking, only, write_task

from evomerge.errors import ConfigError
from evomerge.evaluation.lm_eval.loading import TaskLoader
from evomerge.evaluation.lm_eval.tasks import Harness

ROWS = [{"q": "a?", "a": "b"}]


def test_info_has_documents_metrics_and_directions(tasks, capfd):
    harness = Harness(["t_letter", "t_rolling", "t_filters", "g_sizes"], [tasks])
    harness.with_documents_from({"g_sizes": "g_sizes"}, {"t_letter": "test"}, "evaluation.test")
    assert capfd.readouterr() == ("", ""), "lm-eval prints nothing"
    info = harness.info
    letter = info.tasks["t_letter"]
    assert letter.documents == 40 and letter.kind == "multiple_choice"
    assert letter.metrics["acc"].is_mean and letter.metrics["acc"].higher_is_better
    assert not letter.metrics["f1"].is_mean
    assert not letter.metrics["brier_score"].higher_is_better
    perplexity = info.metric("t_rolling", "word_perplexity")[1]
    assert not perplexity.higher_is_better and not perplexity.is_mean
    filtered = {"exact_match,strict", "exact_match,first-word"}
    assert set(info.tasks["t_filters"].metrics) == {*filtered, "nll", "tokens"}
    assert info.leaves("g_sizes") == ("t_choice", "t_letter")
    assert info.metric("g_sizes", "acc")[0] == "acc"
    assert info.metric("t_letter", "acc,none")[0] == "acc"
    for task, metric, words in (
        ("t_letter", "acurracy", "'t_letter' .*'acurracy'.*brier_score"),
        ("t_letter", "brier_scor", "Did you mean 'brier_score'"),
        ("t_filters", "exact_match", "several filters.*exact_match,strict"),
        ("g_sizes", "f1", "'g_sizes' .*'f1'.*acc"),
    ):
        with pytest.raises(ConfigError, match=words):
            info.metric(task, metric)


def test_tasks_are_indexed_once_for_a_search(tmp_path):
    write_task(tmp_path, "own_one", ROWS)
    loader = TaskLoader([str(tmp_path)])
    assert loader.manager(["own_one"], "x") is loader.manager(["own_one"], "x")
    write_task(tmp_path, "own_two", ROWS)
    assert "own_two" in TaskLoader([str(tmp_path)]).manager(["own_two"], "x").all_tasks
    with pytest.raises(ConfigError, match=r"evaluation\.include.*nowhere"):
        Harness(["t_choice"], [tmp_path / "nowhere"])


CHOICES = {"output_type": "multiple_choice", "doc_to_choice": ["b", "c"]}
UNUSED = [
    ({"dataset_kwargs": {"data_files": {"test": "/nowhere.jsonl"}}}, "could not be loaded"),
    ({"test_split": "tset"}, "could not be loaded"),
    ({"unsafe_code": True}, "runs code that the model writes"),
    *(({"repeats": value}, "whole number of 1 or more") for value in ("a", 0, 1.5, float("nan"))),
    ({"include": "nowhere"}, r"includes '.*nowhere', and there is no such file"),
    ({"task": 5}, r"`task` in '.*' is no text; write it in quotes"),
    ({"tag": [3]}, r"`tag` in '.*' is no text"),
    ({"doc_to_audio": ["q"]}, "only texts and images are scored"),
    ({"doc_to_image": ["q"], **CHOICES}, "shows images, .* let the model write its answer"),
]


@pytest.mark.parametrize(("body", "words"), UNUSED)
def test_a_task_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, body, words):
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", only("gsm8k"))  # all would take seconds
    write_task(tmp_path, "t_odd", ROWS, **body)
    with pytest.raises(ConfigError, match=words) as error:
        Harness(["t_odd"], [tmp_path])
    assert "\n" not in str(error.value) and "t_odd" in str(error.value)


def test_a_task_that_needs_more_tokens_than_the_model_reads_is_refused(tmp_path, llama, tokenizer):
    write_task(tmp_path, "t_odd", ROWS, generation_kwargs={"until": ["\n"], "max_gen_toks": 4000})
    evaluator = asking(Harness(["t_odd"], [tmp_path]))
    with pytest.raises(ConfigError, match="max_gen_toks"):
        evaluator.prepare(llama, tokenizer, {"search": {"t_odd": [0]}})
