"""Makes what the search files of the showcase need: models, adapters, tasks, rows, pictures.

    python -m scripts.real.prepare

What is already there is kept.
"""

from __future__ import annotations

from scripts.real import encoders, experts, seeing, tasks


def prepare() -> None:
    """Fetch the base models, train all experts, and write all tasks, pictures and rows."""
    experts.main([])
    tasks.write()
    encoders.prepare()
    seeing.prepare()


if __name__ == "__main__":
    prepare()
