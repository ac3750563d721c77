"""Which files of task YAML are code. Nothing of them runs."""

from pathlib import Path

import pytest

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.loading import files_with_code
from evomerge.trust.task_files import check_task_files, files_of_tasks

CODE = "raise SystemExit('this was run')\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name.replace('__', '.')}").write_text(text)
    return folder


def found(folder: Path, *tasks: str) -> set[str]:
    return {file.name for file in files_with_code([str(folder)], tasks or ("own",))}


def found_in(file: Path) -> set[str]:
    """Return the names of what counts if a task is read from a file, whatever else it has."""
    return {found.name for found in files_of_tasks(["own"], lambda name: (file, []))}


def test_the_code_of_a_task_is_what_its_yaml_names_and_what_that_imports(tmp_path):
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
    assert found(folder / "deeper") == found(folder, "plain") == set()
    assert found(folder) == {"own.yaml", "own.py", "beside.py"}
    assert found(folder, "parted") == {"part", "part.py"}
    assert found(folder, "plain", "own") == found(folder)


GROUPS = {
    "group": "group: all\ntask: [a, b]\n",
    "group of a group": "group: all\ntask: [{group: inner, task: [{task: a}, b]}]\n",
    "named group": "group: all\ntask: [{group: again}]\n",
    "tag": "group: all\ntask: [tagged]\n",
    "include": "include: ../part\ntask: all\n",
}


@pytest.mark.parametrize("text", GROUPS.values(), ids=GROUPS)
def test_the_code_of_what_is_in_a_group_counts_too(tmp_path, text):
    (tmp_path / "tasks").mkdir()
    inner = "doc_to_text: !function {0}.text\ntag: tagged\ntask: {0}\n"
    write(tmp_path, part="doc_to_text: !function a.text\ndoc_to_target: !function b.text\n")
    write(tmp_path, a__py=CODE, b__py=CODE)
    folder = write(
        tmp_path / "tasks",
        all__yaml=text,
        again__yaml="group: again\ntask: [tagged]\n",
        a__yaml=inner.format("a"),
        b__yaml=inner.format("b"),
        not_in_it__yaml="task: c\ntag: x\ndoc_to_text: !function c.text\ninclude: a.yaml\n",
        **{f"{name}__py": CODE for name in "abc"},
    )
    scripts = {name for name in found(folder, "all") if name.endswith(".py")}
    assert scripts == {"a.py", "b.py"}


@pytest.mark.thorough  # it lists all of lm-eval's tasks
def test_a_task_that_replaces_one_in_a_group_of_lm_eval_counts(tmp_path):
    write(tmp_path, x__yaml="task: arc_easy\nprocess_docs: !function own.docs\n", own__py=CODE)
    write(tmp_path, y__yaml="task: arc_none\nprocess_docs: !function other.docs\n", other__py=CODE)
    assert found(tmp_path, "ai2_arc") == {"x.yaml", "own.py"}


def test_plain_tasks_need_nothing(tmp_path):
    write(
        tmp_path,
        one__yaml="task: one\ndoc_to_text: '{{x}} a/b :: c'\nmetric_list: [{metric: acc}]\n",
        two__yaml="task: two\ndataset_kwargs: {data_files: {test: 'https://a.b/c.json'}}\n",
        tool__py=CODE,
    )
    assert found(tmp_path, "one", "two") == set()


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
    write(tmp_path, part=f"{text}\n", a__yaml="include: part\ntask: own\n", own__py=CODE)
    assert found_in(tmp_path / "a.yaml") == {"part", "own.py"}


def test_installed_tasks_need_nothing(tmp_path):
    assert files_with_code([str(zoo.tasks_path())], ["zoo_maths"]) == []
    (tmp_path / "built_on.yaml").write_text(
        f"include: {zoo.tasks_path()}/zoo_maths.yaml\ntask: own\n"
    )
    assert found(tmp_path) == set()


def test_aliases_that_blow_up_are_refused(tmp_path):
    lines = ["a0: &a0 [!function own.x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    write(tmp_path, own__yaml="\n".join(["task: own", *lines]), own__py=CODE)
    with pytest.raises(
        ConfigError, match=r"own\.yaml, line \d: aliases expand to more than 100000"
    ):
        check_task_files([tmp_path])


def test_a_list_without_end_is_refused(tmp_path):
    write(tmp_path, own__yaml="task: own\ntag: &a [x, *a]\n")
    with pytest.raises(ConfigError, match=r"own\.yaml, line 2: lists or mappings are nested more"):
        check_task_files([tmp_path])


@pytest.mark.parametrize("value", ["!!timestamp x", "!!float ''", "!!int ''", "!!binary [1]"])
def test_values_of_another_type_than_their_tag_says_are_left_to_lm_eval(tmp_path, value):
    write(tmp_path, broken__yaml=f"task: own\nx: {value}\n")
    assert not check_task_files([tmp_path])
    assert found_in(tmp_path / "broken.yaml") == set()


def test_what_is_no_yaml_is_left_to_lm_eval(tmp_path):
    write(tmp_path, broken__yaml="task: [", other__yaml="- 1\n", loop__yaml="include: loop.yaml\n")
    assert not check_task_files([tmp_path])
    assert found_in(tmp_path / "broken.yaml") == found_in(tmp_path / "loop.yaml") == set()


@pytest.mark.parametrize("tag", ["object/apply:os.system ['x']", "name:os.system ''", "none ''"])
def test_python_tags_are_refused(tmp_path, tag):
    write(tmp_path, other__yaml=f"task: other\nx: !!python/{tag}\n")
    with pytest.raises(ConfigError, match=r"other\.yaml, line 2: the YAML tag"):
        check_task_files([tmp_path])
