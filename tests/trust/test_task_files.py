"""Which files of task YAML are code. Nothing of them runs."""

from pathlib import Path

import pytest

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.trust.task_files import files_of_tasks

CODE = "raise SystemExit('this was run')\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name.replace('__', '.')}").write_text(text)
    return folder


def found(folder: Path) -> set[str]:
    return {file.name for file in files_of_tasks([folder])}


def test_the_code_of_a_folder_is_what_its_yaml_names_and_what_that_imports(tmp_path):
    (tmp_path / "tasks" / "deeper").mkdir(parents=True)
    folder = write(
        tmp_path / "tasks",
        plain__yaml="task: plain\ndoc_to_text: '{{x}}'\n",
        own__yaml="task: own\nprocess_docs: !function own.docs\n",
        parted__yaml="include: ../part\ntask: parted\n",
        own__py=CODE + "import beside\n",
        beside__py=CODE,
        unused__py=CODE,
    )
    write(tmp_path, part="doc_to_text: !function part.text\n", part__py=CODE)
    assert found(folder / "deeper") == set()
    assert found(folder) == {"own.yaml", "own.py", "beside.py", "part", "part.py"}


def test_plain_tasks_need_nothing(tmp_path):
    write(
        tmp_path,
        one__yaml="task: one\ndoc_to_text: '{{x}} a/b :: c'\nmetric_list: [{metric: acc}]\n",
        two__yaml="task: two\ndataset_kwargs: {data_files: {test: 'https://a.b/c.json'}}\n",
        tool__py=CODE,
    )
    assert found(tmp_path) == set()


@pytest.mark.parametrize(
    "text",
    [
        "x: {? !function own.docs : 1}",
        "x: !!pairs [a: !function own.docs]",
        "x: !!omap [a: !function own.docs]",
        "x: !!set {? !function own.docs}",
        "x: {y: [&a !<!function> own.docs, *a]}",
        "x: !function own.docs\ny: !!timestamp x",
    ],
    ids=["key", "pairs", "omap", "set", "alias", "before what is not valid"],
)
def test_a_function_counts_wherever_lm_eval_would_import_it(tmp_path, text):
    write(tmp_path, part=f"{text}\n", a__yaml="include: part\ntask: a\n", own__py=CODE)
    assert found(tmp_path) == {"part", "own.py"}


def test_installed_tasks_need_nothing(tmp_path):
    assert files_of_tasks([zoo.tasks_path()]) == []
    (tmp_path / "built_on.yaml").write_text(
        f"include: {zoo.tasks_path()}/zoo_maths.yaml\ntask: m\n"
    )
    assert found(tmp_path) == set()


def test_aliases_that_blow_up_are_refused(tmp_path):
    lines = ["a0: &a0 [!function own.x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    write(tmp_path, own__yaml="\n".join(["task: own", *lines]), own__py=CODE)
    with pytest.raises(
        ConfigError, match=r"own\.yaml, line \d: aliases expand to more than 100000"
    ):
        found(tmp_path)


def test_a_list_without_end_is_refused(tmp_path):
    write(tmp_path, own__yaml="task: own\ntag: &a [x, *a]\n")
    with pytest.raises(ConfigError, match=r"own\.yaml, line 2: lists or mappings are nested more"):
        found(tmp_path)


@pytest.mark.parametrize("value", ["!!timestamp x", "!!float ''", "!!int ''", "!!binary [1]"])
def test_values_of_another_type_than_their_tag_says_are_left_to_lm_eval(tmp_path, value):
    write(tmp_path, broken__yaml=f"task: broken\nx: {value}\n", own__yaml="task: own\n")
    assert found(tmp_path) == set()


def test_what_is_no_yaml_is_left_to_lm_eval(tmp_path):
    write(tmp_path, broken__yaml="task: [", other__yaml="- 1\n", loop__yaml="include: loop.yaml\n")
    assert found(tmp_path) == set()


@pytest.mark.parametrize("tag", ["object/apply:os.system ['x']", "name:os.system ''", "none ''"])
def test_python_tags_are_refused(tmp_path, tag):
    write(tmp_path, other__yaml=f"task: other\nx: !!python/{tag}\n")
    with pytest.raises(ConfigError, match=r"other\.yaml, line 2: the YAML tag"):
        found(tmp_path)
