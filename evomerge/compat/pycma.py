"""What is private in pycma, from version 4.0 on."""

from typing import Any

from evomerge.compat import need


def extend_path(adaptation: Any, strategy: Any) -> None:
    """Let a step-size adaptation by cumulation (CSA) add the last step of the mean to its path."""
    need("cma", adaptation, "_update_ps")(strategy)
