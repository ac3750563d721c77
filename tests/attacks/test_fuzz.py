"""Files of any bytes give a value or an error in one sentence, in bounded time.

`python benchmarks/soak.py --parts mutations` reads many more of them, also in bounded memory.
"""

import pytest
from attacks.targets import TARGETS
from attacks.targets.target import bounded
from draws import draws
from hypothesis import given, settings
from mutations import FUZZ, value_or_error

pytestmark = pytest.mark.thorough

EACH = settings(FUZZ, max_examples=draws(60))


@pytest.mark.parametrize("name", TARGETS)
def test_a_file_of_any_bytes_is_read_or_refused(name, tmp_path):
    target = TARGETS[name]
    read = target.reader(tmp_path)

    @EACH
    @given(target.files)
    def each(data):
        with bounded(target.seconds):
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
