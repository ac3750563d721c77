"""A signal that comes while pycma is imported."""

import subprocess
import sys

import pytest

SOURCE = """
import signal, sys

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "cma.s":
            signal.raise_signal(getattr(signal, sys.argv[1]))

sys.meta_path.insert(0, Hook())
from evomerge.errors import Terminated
from evomerge.optimize import create
from evomerge.space.protocol import Gene

def terminate(*_):
    raise Terminated

signal.signal(signal.SIGTERM, terminate)
optimizer = create("cma", [Gene("x", "real", 0.0, 1.0, 0.5)] * 3, seed=1)
assert "cma" not in sys.modules
try:
    optimizer.ask()
except KeyboardInterrupt as error:
    print(type(error).__name__, "cma" in sys.modules)
print(len(optimizer.ask()))
"""


@pytest.mark.parametrize(
    ("name", "error"), [("SIGINT", "KeyboardInterrupt"), ("SIGTERM", "Terminated")]
)
def test_a_signal_waits_until_pycma_is_imported(name: str, error: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SOURCE, name], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [error, "True", "3"]
