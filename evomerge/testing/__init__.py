"""Checks that an optimizer, a space or a merge method keeps its contract.

Call them in the tests of your package. Each raises an `AssertionError` whose message says what is
broken; `python -O` turns them off::

    from evomerge.testing import check_method

    def test_my_method():
        check_method(my_method)
"""

from evomerge.testing.methods import check_method as check_method
from evomerge.testing.optimizers import GENES as GENES
from evomerge.testing.optimizers import check_optimizer as check_optimizer
from evomerge.testing.optimizers import check_space as check_space
