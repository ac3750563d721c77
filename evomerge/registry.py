"""Lookup of merge methods, optimizers and so on by name.

A registry maps names to objects: those of evomerge and those of other packages. Each is imported
when it is needed. Another package adds an object with an entry point in its `pyproject.toml`::

    [project.entry-points."evomerge.methods"]
    my_method = "my_package.merging:my_method"
"""

import sys
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, EntryPoints, entry_points
from typing import Any, Generic, TypeVar, cast

from evomerge.errors import ConfigError, InputError, did_you_mean

T = TypeVar("T")


@dataclass(frozen=True)
class Registry(Generic[T]):
    """Objects of one kind by name, each imported when it is first needed.

    Attributes:
        group: entry-point group of the objects of other packages; empty: they add none.
        aliases: other spelling -> name. `get` accepts aliases; `names` does not list them.
    """

    kind: str
    group: str
    builtin: Mapping[str, str]
    _: KW_ONLY
    aliases: Mapping[str, str] = field(default_factory=dict)
    error: type[InputError] = ConfigError

    def names(self) -> tuple[str, ...]:
        """Return all names: those of evomerge in their order, then those of other packages."""
        added = {point.name for point in _entry_points(self.group, tuple(sys.path))}
        return (*self.builtin, *sorted(added - set(self.builtin)))

    def get(self, name: str) -> T:
        """Return the object with a name or alias. Other packages cannot replace a built-in name.

        InputError: there is no such name, or the package that adds it cannot be imported.
        """
        self.check(name)
        name = self.aliases.get(name, name)
        if name in self.builtin:
            return cast(T, imported(self.builtin[name]))
        return self._load(_entry_points(self.group, tuple(sys.path))[name])

    def check(self, name: str) -> None:
        """Raise an InputError if there is no such name or alias."""
        if {name, self.aliases.get(name, name)} & self.builtin.keys():
            return  # to ask other packages takes a while
        if name not in (names := self.names()):
            raise self.error(
                f"Unknown {self.kind} {name!r}; available are {', '.join(names)}."
                f"{did_you_mean(name, (*names, *self.aliases))}"
            )

    def _load(self, point: EntryPoint) -> T:
        try:
            return cast(T, point.load())
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit would end evomerge without a word
            raise self.error(
                f"The {self.kind} {point.name!r} of the entry point {point.value!r} cannot be "
                f"loaded ({type(error).__name__}: {error}); repair or uninstall that package."
            ) from error


def imported(name: str) -> Any:
    """Return the object that `module:NAME` names."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


@cache
def _entry_points(group: str, searched: tuple[str, ...]) -> EntryPoints:
    """Return the entry points of the packages in these folders, which takes a tenth of a second."""
    return entry_points(group=group)
