"""Settings of all tests.

Property tests have no deadline, since a busy machine would exceed it. They draw the same examples
in each run, so that a run fails for a change and not for its luck; `make test-long` draws others,
and more.
As many tests run at a time as there are cores, so each computes with one thread: threads that wait
for each other on a busy core made the tests of inference ten times as long.
"""

import os
import signal

from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch reads it when it is imported

# In the background of a shell SIGINT is ignored, and so it would be by what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "evomerge", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)
settings.register_profile(
    "long", settings.get_profile("evomerge"), derandomize=False, max_examples=1000
)
settings.load_profile("evomerge")
