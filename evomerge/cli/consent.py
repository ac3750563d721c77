"""Asking a person at a terminal whether the code of a search file may run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from evomerge.trust.consent import Consent


def consent_of(trust_code: bool) -> Consent:
    """Return how a command decides whether the code of a search file may run.

    Args:
        trust_code: whether the option `--trust-code` is given.
    """
    from evomerge.trust.consent import Consent

    at_terminal = sys.stdin.isatty() and sys.stderr.isatty()
    return Consent(given=trust_code, ask=_ask if at_terminal else None, told=_tell)


def _tell(files: Sequence[Path]) -> None:
    from evomerge.cli.terminal import say

    for file in files:
        say(f"from now on this code may run: {file}")


def _ask(files: Sequence[Path]) -> bool:
    from evomerge.cli.terminal import paused, say

    with paused():
        say("this search runs code that you have not allowed on this machine:")
        for file in files:
            say(f"  {file}")
        return typer.confirm("Have you read it, and may it run?", err=True)
