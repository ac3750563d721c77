"""Which modules are installed, and which files are named of those that are not."""

import importlib.util
import sys
from pathlib import Path

import numpy
import pytest

import evomerge
from evomerge.trust.code import code_of_module, is_installed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder in which Python looks for modules."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_installed_are_python_its_packages_and_evomerge(tmp_path):
    for module in (numpy, importlib.util, evomerge):
        assert is_installed(Path(module.__file__))
    assert not is_installed(tmp_path / "site-packages" / "module.py")
    assert not is_installed(Path(__file__))


def test_installed_modules_have_no_code_of_their_own():
    for name in ("numpy.linalg", "json", "wave", "no_such_module", ""):
        assert code_of_module(name) == []


def test_a_module_a_package_and_a_folder_without_init_are_named(folder):
    for name in ("t_module", "t_kept_package/__init__", "t_kept_package/inner", "t_space/one"):
        file = folder / f"{name}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text("raise SystemExit('this was run')\n")

    def named(module):
        return [str(file.relative_to(folder)) for file in code_of_module(module)]

    assert named("t_module") == ["t_module.py"]
    assert named("t_kept_package") == ["t_kept_package/__init__.py"]
    assert named("t_kept_package.inner") == [
        "t_kept_package/__init__.py",
        "t_kept_package/inner.py",
    ]
    assert named("t_space.one") == ["t_space", "t_space/one.py"]


def test_a_module_that_the_program_has_imported_is_its_own(folder, monkeypatch):
    (folder / "t_own.py").write_text("")
    monkeypatch.setitem(sys.modules, "t_own", sys)
    assert code_of_module("t_own") == []
