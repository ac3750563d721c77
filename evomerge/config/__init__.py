"""The search file: schema, defaults, messages, presets."""

from pathlib import Path


def preset_text(name: str) -> str:
    """Return the text of a preset, a commented search file to start from."""
    return Path(__file__).with_name("presets").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
