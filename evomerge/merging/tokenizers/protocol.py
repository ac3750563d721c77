"""The protocol by which the rest of the merge backend uses a merged vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Vocabulary(Protocol):
    """The vocabulary of a merged model whose rows are matched by token (`tokenizer: union`)."""

    @property
    def size(self) -> int:
        """Number of rows of the merged embedding matrix and head, with padding."""
        ...

    @property
    def special_ids(self) -> Mapping[str, object]:
        """Token ids of the merged config that differ from the host's, by key."""
        ...
