"""Files of any bytes give a value or an error in one sentence, in bounded time.

`python benchmarks/soak.py --parts mutations` reads many more of them, also in bounded memory.
"""

import json

import pytest
from attacks.targets import TARGETS
from attacks.targets.runs import TIMINGS
from attacks.targets.target import bounded
from draws import draws
from hypothesis import given, settings
from mutations import FUZZ, value_or_error

from evomerge.run.timings import Timings

pytestmark = pytest.mark.thorough

EACH = settings(FUZZ, max_examples=draws(15))


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_of_any_bytes_is_read_or_refused(name, tmp_path):
    target = TARGETS[name]
    read = target.reader(tmp_path)

    @EACH
    @given(target.files)
    def each(data):
        with bounded():
            value_or_error(lambda: read(data))

    each()


@pytest.mark.parametrize("name", TARGETS)
def test_the_files_that_are_changed_are_valid(name, tmp_path):
    target = TARGETS[name]
    read = target.reader(tmp_path)
    for data in target.valid:
        found = read(data)
        assert found is not None
        assert not isinstance(found, list) or None not in found


@pytest.mark.parametrize(
    "strange", [{"method": "\ud800\n" * 2000}, {"total": 10**4000}, {"done": -5}, {"done": None}]
)
def test_a_preparation_of_strange_values_is_not_shown(tmp_path, strange):
    (tmp_path / "timings.jsonl").write_text(json.dumps(TIMINGS[-1] | strange) + "\n")
    said = Timings(tmp_path / "timings.jsonl").preparation() or ""
    assert said.isprintable() and len(said) < 1000
