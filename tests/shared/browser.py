"""A real browser that shows a page of this machine."""

import shutil
import subprocess
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


def browsed(page: Path) -> subprocess.CompletedProcess[str]:
    """Show a page: what its scripts have made of it is the output, messages are in the errors."""
    words = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
        "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=5000", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, timeout=250)
