"""How many examples a property test draws."""

from hypothesis import settings

USUAL = 100
"""Examples of a property test that names no number, in `make test`."""


def draws(number: int) -> int:
    """Return so many examples for `make test`, and ten times as many for `make test-long`."""
    return number * settings.default.max_examples // USUAL
