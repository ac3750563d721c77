"""For tests whose tasks and objectives are code: the user of the tests has allowed it."""

from pathlib import Path

from evomerge.trust.consent import allow, read_code, record


def trust(*paths: Path) -> None:
    """Allow files, or all Python and YAML files of a folder, here and in the commands of tests."""
    inside = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    files = [read_code(file) for file in inside if file.suffix in (".py", ".yaml")]
    record({file.digest: str(file.path) for file in files})
    allow(files)
