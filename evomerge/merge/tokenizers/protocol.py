"""What the rest of the merge backend must know of a vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Vocabulary(Protocol):
    """The tokens of a merged model whose rows are matched by token (`tokenizer: union`)."""

    @property
    def size(self) -> int:
        """Rows of the merged embedding matrix and head, padding included."""
        ...

    @property
    def special_ids(self) -> Mapping[str, object]:
        """Token ids of the merged config by key, where they are not the host's."""
        ...
