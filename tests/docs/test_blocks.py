"""Every code block of the documentation runs, or is checked as far as possible."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import huggingface_hub
import pytest
from page_reader import read
from page_stand_ins import stand_in_for_datasets, stand_in_for_models, write_models, write_tasks
from pages import PAGES, ROOT, blocks_of

from evomerge.trust.code import Permissions

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Models that stand in for those of the reader and of the Hub."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def folder(tmp_path: Path, models: list[Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be in a folder with the configs and examples of the repository and tasks of the reader."""
    for name in ("configs", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name)
    write_tasks(tmp_path / "tasks")
    monkeypatch.setattr(Permissions, "require", lambda *_: None)  # the reader's own code
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    stand_in_for_models(monkeypatch, models)
    stand_in_for_datasets(monkeypatch)
    environment, modules = dict(os.environ), set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - modules:
        module = sys.modules[name]
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)) or isinstance(
            module, SimpleNamespace
        ):
            del sys.modules[name]
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if blocks_of(text)])
def test_the_blocks_of_a_page_do_what_it_says(page: str, folder: Path) -> None:
    read(page, PAGES[page])
