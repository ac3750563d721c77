"""Checks of the laws for an optimizer, a strategy, a space or a merge method.

Call them in the tests of your package. Each raises an `AssertionError` whose message says which
law is broken::

    from evomerge.testing import check_method

    def test_my_method():
        check_method(my_method)
"""

from evomerge.testing.methods import check_method as check_method
from evomerge.testing.optimizers import GENES as GENES
from evomerge.testing.optimizers import check_optimizer as check_optimizer
from evomerge.testing.problems import PROBLEMS as PROBLEMS
from evomerge.testing.problems import Problem as Problem
from evomerge.testing.require import require as require
from evomerge.testing.searches import CONDITIONS as CONDITIONS
from evomerge.testing.searches import check_choices as check_choices
from evomerge.testing.searches import check_search as check_search
from evomerge.testing.searches import quality as quality
from evomerge.testing.spaces import check_space as check_space
from evomerge.testing.strategies import check_strategy as check_strategy
