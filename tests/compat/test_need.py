"""What a version of a library lacks is named in a sentence."""

import pytest
from lm_eval import utils

from evomerge.compat import need
from evomerge.errors import SearchError


def test_what_is_gone_is_one_sentence():
    assert need("lm_eval", utils, "env") is utils.env
    with pytest.raises(SearchError, match=r"lm_eval 0\.\d+\S* has no 'gone' in .*lm_eval.utils"):
        need("lm_eval", utils, "gone")
