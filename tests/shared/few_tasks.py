"""A few of lm-eval's own tasks, since to look through all of them takes seconds."""

from pathlib import Path

import lm_eval.tasks
from lm_eval.tasks import TaskManager


def only(*folders: str) -> type[TaskManager]:
    """Return a `TaskManager` that knows of lm-eval's own tasks those in these folders."""
    home = Path(lm_eval.tasks.__file__).parent

    class FewTasks(TaskManager):
        def __init__(
            self, include_path: str | list[str] | None = None, include_defaults: bool = True
        ) -> None:
            given = [include_path] if isinstance(include_path, str) else include_path or []
            known = [str(home / name) for name in folders] if include_defaults else []
            super().__init__(include_path=[*given, *known], include_defaults=False)

    return FewTasks
