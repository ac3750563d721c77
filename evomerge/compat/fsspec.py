"""What differs between the versions of fsspec, which opens the files of data sets."""

from functools import cache
from importlib.metadata import version


@cache
def is_sandboxed() -> bool:
    """Return whether fsspec renders the templates of file systems in a sandbox.

    Before 2026.6, the template of a `reference://` file system could run code.
    """
    return tuple(int(part) for part in version("fsspec").split(".")[:2]) >= (2026, 6)
