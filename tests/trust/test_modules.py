"""Which files a module consists of, and which of them are installed."""

import importlib.util
import sys
from pathlib import Path

import numpy
import pytest

import evomerge
from evomerge.errors import ConfigError
from evomerge.trust.consent import allow, read_code
from evomerge.trust.modules import files_of_module, import_allowed, is_installed, with_imports


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which Python looks for modules."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def names(files, folder):
    return [str(file.relative_to(folder)) for file in files]


def test_installed_are_python_its_packages_and_evomerge(tmp_path):
    for module in (numpy, importlib.util, evomerge):
        assert is_installed(Path(module.__file__))
    assert not is_installed(tmp_path / "site-packages" / "module.py")
    assert not is_installed(Path(__file__))


def test_installed_modules_have_no_files_to_allow():
    assert files_of_module("numpy.linalg") == files_of_module("json") == []
    assert files_of_module("no_such_module") == files_of_module("__main__.x") == []


def test_what_a_module_imports_belongs_to_it(folder):
    (folder / "t_first.py").write_text("import os, numpy\ndef f():\n    from t_second import x\n")
    (folder / "t_second.py").write_text("import t_first, t_package.inner\n")
    package = folder / "t_package"
    package.mkdir()
    for name in ("__init__.py", "inner.py", "other.py"):
        (package / name).write_text("")
    found = names(files_of_module("t_first"), folder)
    assert found[:2] == ["t_first.py", "t_second.py"]
    assert set(found[2:]) == {f"t_package/{n}.py" for n in ("__init__", "inner", "other")}
    assert set(names(files_of_module("t_package.other"), folder)) == set(found[2:])


def test_of_a_folder_without_init_only_what_python_would_import_counts(folder):
    deep = folder / "t_space" / "deep"
    deep.mkdir(parents=True)
    for name in ("two", "three", "other"):
        (deep / f"{name}.py").write_text("")
    (deep / "one.py").write_text("from t_space.deep import two\nfrom . import three\n")
    found = names(files_of_module("t_space.deep.one"), folder)
    assert found == ["t_space/deep/one.py", "t_space/deep/two.py", "t_space/deep/three.py"]
    assert files_of_module("t_space") == files_of_module("t_space.none") == []


def test_a_folder_with_the_name_of_an_import_is_not_taken_for_it(folder):
    """It may be a folder of data, of any size."""
    (folder / "t_tasks" / "data" / "deep").mkdir(parents=True)
    (folder / "t_tasks" / "data" / "deep" / "script.py").write_text("")
    function = folder / "t_tasks" / "own.py"
    function.write_text("import data, data.absent\nfrom data import deep\n")
    assert names(with_imports([function]), folder) == ["t_tasks/own.py"]
    function.write_text("from data.deep.script import x\n")
    found = names(with_imports([function]), folder)
    assert found == ["t_tasks/own.py", "t_tasks/data/deep/script.py"]


def test_what_stands_beside_a_module_belongs_to_it_where_python_may_not_look(folder):
    """A module may put its own folder on the path before it imports."""
    (folder / "t_package").mkdir()
    elsewhere = folder / "t_package" / "tool.py"
    elsewhere.write_text("import helper\nfrom . import (\n    other,\n)\n")
    for name in ("helper", "other", "third"):
        (folder / "t_package" / f"{name}.py").write_text("")
    assert names(with_imports([elsewhere]), folder) == [
        f"t_package/{name}.py" for name in ("tool", "helper", "other")
    ]


def test_a_package_goes_before_a_module_of_the_same_name(folder):
    (folder / "t_both.py").write_text("")
    (folder / "t_both").mkdir()
    (folder / "t_both" / "__init__.py").write_text("")
    assert names(files_of_module("t_both"), folder) == ["t_both/__init__.py"]


def test_a_module_is_imported_only_if_all_its_files_are_as_they_were_allowed(folder):
    (folder / "t_first.py").write_text("def value():\n    import t_late\n    return t_late.x\n")
    late = folder / "t_late.py"
    late.write_text("x = 1\n")
    with pytest.raises(ConfigError, match="was not allowed to run"):
        import_allowed("t_first")
    allow(map(read_code, files_of_module("t_first")))
    late.write_text("x = 2\n")
    with pytest.raises(ConfigError, match=r"t_late\.py was not allowed to run, or has changed"):
        import_allowed("t_first")
    assert "t_first" not in sys.modules
    allow([read_code(late)])
    assert import_allowed("t_first").value() == 2
