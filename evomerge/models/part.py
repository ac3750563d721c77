"""What a model may have besides its blocks, as one protocol: a head, modules, towers and more.

A new kind of part is a subclass in a file of its own, listed in `parts.PARTS`. If it has weights
that transformers does not build, `merging/architecture/attach.py` builds them; an objective that
needs it names it in `needed_parts`.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from evomerge.models.checkpoint import Checkpoint


class Parents(NamedTuple):
    """The parents of merges, and what a search merges of them.

    Attributes:
        checkpoints: host and parents by reference, with the host's names of tensors.
        host: reference of the parent that merges have their parts from.
        names: reference -> the name that users read.
        merged: name of a part -> the parents that a search merges it from; missing: it is the
            host's. None: there is no search, only one recipe.
        stacks: number of block stacks that are merged.
        is_path: whether it searches a path through the layers.
    """

    checkpoints: Mapping[str, Checkpoint]
    host: str
    names: Mapping[str, str]
    merged: Mapping[str, Sequence[str]] | None = None
    stacks: int = 0
    is_path: bool = False

    @property
    def model(self) -> Checkpoint:
        """The host."""
        return self.checkpoints[self.host]


class Part:
    """One kind of part. What a model does not have, its methods say nothing about.

    Merges have the parts of their host. Parents have the host's names of tensors.

    Example:
        >>> class Watermark(Part):
        ...     def names(self, model):
        ...         own = [name for name in model.tensors if name.startswith("watermark.")]
        ...         return {"watermark": own} if own else {}
        ...
        ...     def facts(self, parents):
        ...         return {"watermark": "the host's" if self.names(parents.model) else None}
    """

    left_out = ""
    """What merges leave out of a parent whose host has no such part, besides tensors in `lost`."""
    lent = ""
    """What a parent without the part has from the host, besides the tensors in `lacks`."""

    def names(self, model: Checkpoint) -> Mapping[str, Collection[str]]:
        """Return the parts of this kind that a model has, by name, and each one's tensors."""
        return {}

    def kind(self, model: Checkpoint) -> str | None:
        """Return what the part makes of a model, such as `reward model`; None: nothing special."""
        return None

    def fit(self, host: Checkpoint, parent: Checkpoint) -> Checkpoint:
        """Return a parent as merges of a host use it: without what the host has no place for.

        Raises:
            CheckpointError: the part of the parent cannot be used, and must not be left out.
        """
        return parent

    def advice(self, host: Checkpoint, parent: Checkpoint) -> Iterable[str]:
        """Return what a user should know if the host lends something to a parent."""
        return ()

    def notes(self, parents: Parents) -> Iterable[str]:
        """Return warnings about merges of these parents."""
        return ()

    def facts(self, parents: Parents) -> Mapping[str, object]:
        """Return rows of `evomerge validate`, by key; None: a row says nothing."""
        return {}

    def differences(self, one: Checkpoint, other: Checkpoint) -> list[str]:
        """Return the settings of the part in which two models differ."""
        return []
