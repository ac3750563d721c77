"""Makes what the search files of the showcase need: the models, the adapters and the tasks.

    python -m scripts.real.prepare

What is already there is kept.
"""

from __future__ import annotations

from scripts.real import experts, tasks


def prepare() -> None:
    """Fetch the base model, train all experts, and write all tasks."""
    experts.main([])
    tasks.write()


if __name__ == "__main__":
    prepare()
