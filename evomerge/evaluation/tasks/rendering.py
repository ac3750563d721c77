"""A cache of what lm-eval's tasks render from their documents.

lm-eval renders the target and the choices of a document each time its metrics are computed. In a
search that would be once for every candidate, with the same result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class RenderCache:
    """Caches the results of a task's `doc_to_target` and `doc_to_choice` by document."""

    def __init__(self) -> None:
        # The document is kept with its result, since an id is reused once its object is gone.
        self._rendered: dict[tuple[str, int], tuple[Any, Any]] = {}

    @contextlib.contextmanager
    def applied_to(self, task: Any) -> Iterator[None]:
        """While the context is open, an lm-eval task takes its renderings from the cache."""
        names = [name for name in ("doc_to_target", "doc_to_choice") if hasattr(task, name)]
        for name, cached in [(name, self._cached(task, name)) for name in names]:
            setattr(task, name, cached)
        try:
            yield
        finally:
            for name in names:
                delattr(task, name)

    def _cached(self, task: Any, name: str) -> Callable[..., Any]:
        render = getattr(task, name)

        def recall(document: Any, *override: Any, **options: Any) -> Any:
            if override or options:
                return render(document, *override, **options)
            key = (name, id(document))
            if key not in self._rendered or self._rendered[key][0] is not document:
                self._rendered[key] = (document, render(document))
            return self._rendered[key][1]

        return recall
