"""The wheel and the sdist: each installs beside its dependencies alone, and runs a search."""

import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

HOME = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The folder with both packages, built from a copy of what git would publish."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=HOME, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (HOME / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((HOME / name).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(source)],
        check=True, capture_output=True,
    )  # fmt: skip
    return out


def test_the_packages_have_what_a_user_needs_and_no_run(packages):
    (wheel,), (sdist,) = packages.glob("*.whl"), packages.glob("*.tar.gz")
    with ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in names} == {"evomerge"}
    assert {"evomerge/py.typed", "evomerge/report/page.html.jinja"} <= names
    assert any(name.startswith("evomerge/zoo/tasks/") for name in names)
    with tarfile.open(sdist) as file:
        inside = {name.partition("/")[2] for name in file.getnames()}
    assert {"CITATION.cff", "CHANGELOG.md", "README.md", "LICENSE", "Makefile"} <= inside
    assert not [name for name in inside if name.startswith("runs/")]


SMALL = [
    f"--set={path}"
    for path in (
        "budget.candidates=5",
        "evaluation.search.documents=10",
        "evaluation.validation.documents=10",
        "evaluation.test.documents=10",
    )
]


def installed(home, package, *options, beside=""):
    """Make a virtual environment with a package, `beside` a folder of others; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    python = home / "bin" / "python"
    (site,) = (home / "lib").glob("*/site-packages")
    (site / "others.pth").write_text(beside)
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*pip, *options, package], check=True, cwd=home)
    return python


def search_and_export(python, folder):
    """Search as a user does who has the package alone, and export the winner."""
    where = subprocess.run(
        [python, "-c", "import evomerge; print(evomerge.__file__)"],
        check=True, capture_output=True, text=True, cwd=folder,
    )  # fmt: skip
    assert Path(where.stdout.strip()).is_relative_to(python.parent.parent)
    command = python.parent / "evomerge"
    for words in (
        ["init", "search.yaml"],
        ["search", "search.yaml", "--run", "run", *SMALL],
        ["export", "run", "--out", "model"],
    ):
        subprocess.run([command, *words], check=True, cwd=folder, capture_output=True)
    assert (folder / "model" / "model.safetensors").is_file()


ALONE = ["--no-deps", "--no-index", "--no-build-isolation"]
BESIDE = sysconfig.get_paths()["purelib"]
"""The dependencies; the clone is in a file there that is not read from a `.pth` file."""


def test_the_wheel_runs_a_search_without_the_clone(packages, tmp_path):
    (wheel,) = packages.glob("*.whl")
    search_and_export(installed(tmp_path / "venv", wheel, *ALONE, beside=BESIDE), tmp_path)


def test_the_sdist_installs_the_same_files_as_the_wheel(packages, tmp_path):
    (sdist,), (wheel,) = packages.glob("*.tar.gz"), packages.glob("*.whl")
    installed(tmp_path / "venv", sdist, *ALONE, beside=BESIDE)
    (site,) = (tmp_path / "venv" / "lib").glob("*/site-packages")
    with ZipFile(wheel) as file:
        names = {name for name in file.namelist() if name.startswith("evomerge/")}
        assert all((site / name).read_bytes() == file.read(name) for name in names)


@pytest.mark.long
def test_the_wheel_installs_with_all_that_it_needs(packages, tmp_path):
    (wheel,) = packages.glob("*.whl")
    search_and_export(installed(tmp_path / "venv", wheel), tmp_path)
