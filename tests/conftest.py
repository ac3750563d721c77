"""What the user of the tests allows is kept in a folder of its own, never in the home folder."""

import atexit
import os
import shutil
import tempfile

STATE = tempfile.mkdtemp(prefix="evomerge-state-")
os.environ["EVOMERGE_STATE"] = STATE
atexit.register(shutil.rmtree, STATE, ignore_errors=True)
