"""Which files of task YAML are code. Nothing of them runs."""

from pathlib import Path

import pytest

from evomerge import zoo
from evomerge.trust.task_files import code_of_tasks

CODE = "raise SystemExit('this was run')\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name.replace('__', '.')}").write_text(text)
    return folder


def found(folder: Path) -> set[str]:
    return {file.name for file in code_of_tasks([folder])}


def test_yaml_with_a_function_is_code_also_where_it_is_included(tmp_path):
    (tmp_path / "tasks" / "deeper").mkdir(parents=True)
    folder = write(
        tmp_path / "tasks",
        plain__yaml="task: plain\ndoc_to_text: '{{x}}'\ninclude: ../part\n",
    )
    write(folder / "deeper", own__yaml="process_docs: !function own.docs\n", own__py=CODE)
    write(tmp_path, part="doc_to_text: !function part.text\ninclude: part\n", part__py=CODE)
    assert found(folder / "deeper") == {"own.yaml", "own.py"}
    assert found(folder) == {"own.yaml", "own.py", "part", "part.py"}


def test_an_include_is_found_as_lm_eval_finds_it(tmp_path):
    (tmp_path / "tasks").mkdir()
    write(tmp_path, part="process_docs: !function deep.own.f\n")
    for text in ("nowhere/../../part", "../part", str(tmp_path / "x" / ".." / "part")):
        write(tmp_path / "tasks", own__yaml=f"include: {text}\n")
        assert "part" in found(tmp_path / "tasks")


def test_python_beside_yaml_is_code(tmp_path):
    write(tmp_path, own__yaml="task: own\n")
    assert found(tmp_path) == set()
    write(tmp_path, unused__py=CODE)
    assert found(tmp_path) == {"own.yaml", "unused.py"}


@pytest.mark.parametrize(
    "text",
    [
        "x: {? !function own.docs : 1}",
        "x: !!pairs [a: !function own.docs]",
        "x: !!set {? !function own.docs}",
        "x: {y: [&a !<!function> own.docs, *a]}",
        "%TAG !f! !func\n---\nx: !f!tion own.docs",
        "x: !function own.docs\ny: !!timestamp x",
        "x: !!python/name:os.system",
        "metric_list: [{metric: somebody/metric}]",
        "dataset_path: pandas",
        "dataset_kwargs: {trust_remote_code: [[]]}",
        "dataset_kwargs: {storage_options: {fo: x}}",
        "dataset_kwargs: {data_files: {test: ['reference://rows.jsonl']}}",
        "dataset_kwargs: {data_files: 'https://a.b/c.json::x'}",
        "task: [{task: inner, dataset_path: pandas}]",
        "a: &a {metric: b/c}\nmetric_list: [{<<: *a}]",
        "metric_list: [{metric: .}]",
        "metric_list: [{? !!str {=: metric} : own.py}]",
        "? !!str {=: include}\n: part",
        "task: [!!str {=: inner}]",
        "task: &a [{task: *a}]",
        "task:\n- &a0 {task: [x]}\n"
        + "".join(f"- &a{n} {{task: [*a{n - 1}]}}\n" for n in range(1, 1500)),
        "metric_list: [{metric: acc, hf_evaluate: true}]",
        "use_prompt: 'prompts.yaml:own'",
        "dataset_path: sql",
        "dataset_path: somewhere://else",
        "dataset_kwargs: {data_dir: 'x::y'}",
    ],
)
def test_whatever_lets_lm_eval_run_something_is_code(tmp_path, text):
    write(tmp_path, own__yaml=f"{text}\n")
    assert found(tmp_path) == {"own.yaml"}


def test_a_local_script_of_a_metric_or_data_set_is_code(tmp_path):
    (tmp_path / "tasks").mkdir()
    write(tmp_path, tool__py=CODE)
    for text in ("metric_list: [{{metric: {}}}]", "dataset_path: {}"):
        write(tmp_path / "tasks", own__yaml=text.format(tmp_path / "tool.py"))
        assert found(tmp_path / "tasks") == {"own.yaml"}


def test_plain_and_installed_tasks_are_no_code(tmp_path):
    write(
        tmp_path,
        one__yaml="task: one\ndoc_to_text: '{{x}} a/b :: c'\nmetric_list: [{metric: acc}]\n",
        two__yaml="task: two\ndataset_kwargs: {data_files: {test: 'https://a.b/c.json'}}\n",
        broken__yaml="task: [!function own.docs\n",
        bomb__yaml="a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n",
        names__yaml='include: ["x\\0y", "' + "z" * 5000 + '"]\n',
        group__yaml="group: g\ntask: [a]\naggregate_metric_list: [{metric: theirs}]\n",
    )
    assert found(tmp_path) == set()
    assert code_of_tasks([zoo.tasks_path()]) == []
