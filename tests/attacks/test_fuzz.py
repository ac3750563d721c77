"""Files of any bytes give a value or an error in one sentence, in bounded time."""

import pytest
from attacks.targets.models import MODELS
from attacks.targets.runs import RUNS
from attacks.targets.target import Target, bounded
from attacks.targets.texts import TEXTS
from draws import FUZZ, draws, value_or_error
from hypothesis import given, settings

pytestmark = pytest.mark.thorough

TARGETS: dict[str, Target] = {**RUNS, **TEXTS, **MODELS}
"""Every parser of files that strangers write."""

EACH = settings(FUZZ, max_examples=draws(15))


@pytest.mark.parametrize("name", TARGETS)
def test_a_valid_file_is_read_and_one_of_any_bytes_is_read_or_refused(name, tmp_path):
    target = TARGETS[name]
    read = target.reader(tmp_path)
    for data in target.valid:
        found = read(data)
        assert found is not None
        assert not isinstance(found, list) or None not in found

    @EACH
    @given(target.files)
    def each(data):
        with bounded():
            value_or_error(lambda: read(data))

    each()
