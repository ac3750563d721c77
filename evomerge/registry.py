"""Lookup by name: what evomerge brings, what other packages add, and "did you mean".

A registry is a literal dict from name to where the thing lives (`module:attribute`), so that
listing names imports nothing. Another package adds a name by an entry point of the registry's
group in its own `pyproject.toml`::

    [project.entry-points."evomerge.methods"]
    my_method = "my_package.merging:MY_METHOD"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from evomerge.errors import ConfigError, InputError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Named things of one kind, imported when they are asked for.

    Attributes:
        kind: what an error calls one of them (`merge method`).
        group: entry-point group that other packages add to.
        builtin: name -> `module:attribute`.
        aliases: other spelling -> name; found by `get`, not listed by `names`.
        error: what an unknown name raises.
    """

    kind: str
    group: str
    builtin: Mapping[str, str]
    aliases: Mapping[str, str] = field(default_factory=dict)
    error: type[InputError] = ConfigError

    def names(self) -> tuple[str, ...]:
        """Return every name: the built-in ones in their order, then the added ones sorted."""
        added = {point.name for point in entry_points(group=self.group)}
        return (*self.builtin, *sorted(added - set(self.builtin)))

    def get(self, name: str) -> T:
        """Return what `name` stands for; a built-in name cannot be replaced from outside.

        Raises:
            InputError: no such name, or the package that adds it cannot be imported.
        """
        name = self.aliases.get(name, name)
        if name in self.builtin:
            module, _, attribute = self.builtin[name].partition(":")
            return cast(T, getattr(import_module(module), attribute))
        for point in entry_points(group=self.group):
            if point.name == name:
                return self._load(point)
        names = self.names()
        raise self.error(
            f"Unknown {self.kind} {name!r}; available are {', '.join(names)}."
            f"{did_you_mean(name, (*names, *self.aliases))}"
        )

    def _load(self, point: EntryPoint) -> T:
        try:
            return cast(T, point.load())
        except Exception as error:
            raise self.error(
                f"The {self.kind} {point.name!r} of the entry point {point.value!r} cannot be "
                f"loaded ({type(error).__name__}: {error}); mend or uninstall that package."
            ) from error
