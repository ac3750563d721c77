"""Checks of the laws for an optimizer, a space, a merge method or an executor of your own.

Call them in the tests of your package. Each raises an `AssertionError` whose message says which
law is broken::

    from evomerge.testing import check_method

    def test_my_method():
        check_method(MY_METHOD)
"""

from evomerge.testing.executors import check_executor as check_executor
from evomerge.testing.methods import check_method as check_method
from evomerge.testing.optimizers import GENES as GENES
from evomerge.testing.optimizers import check_optimizer as check_optimizer
from evomerge.testing.require import require as require
from evomerge.testing.spaces import check_space as check_space
