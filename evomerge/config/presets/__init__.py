"""Commented search files to start from, for `evomerge init`."""

from pathlib import Path


def preset_text(name: str) -> str:
    """Return the text of a preset."""
    return Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")
