"""How many examples a property test draws."""

from hypothesis import settings


def draws(number: int) -> int:
    """Return so many examples for `make test`, and ten times as many for `make test-long`."""
    return number * settings.default.max_examples // settings.get_profile("evomerge").max_examples
