"""Choosing parents from a pool: a candidate merges at most k of them.

Every parent has a gene, its priority. Parents with a priority of 0.5 or more are in; if these are
more than k, the k with the highest priorities. If none is, the one with the highest priority is in.
A real number is searched rather than a yes or no, since "at most k" needs an order of the parents,
and CMA-ES can then follow small steps.
"""

from collections.abc import Mapping, Sequence

from evomerge.errors import ConfigError
from evomerge.space.knobs import PRIORITY
from evomerge.space.layer_genes import MethodInputs
from evomerge.space.protocol import Gene

THRESHOLD = 0.5
"""Smallest priority of a parent that is in."""


class ParentPool:
    """The genes that say which parents a candidate merges: `most` at most, beside the base."""

    def __init__(self, inputs: Sequence[MethodInputs], most: int) -> None:
        self._inputs, self._most = tuple(inputs), most
        self._parents = tuple(dict.fromkeys(name for item in inputs for name in item.sources))
        for item in inputs:
            needed = item.method.parents[0]
            if not needed <= most <= len(self._parents):
                raise ConfigError(
                    f"space.most_parents is {most}, but {item.method.name} merges {needed} parents "
                    f"or more, and there are {len(self._parents)} (the base does not count); set "
                    f"it to a number from {needed} to {len(self._parents)}."
                )
        self.genes = tuple(
            Gene(f"{parent}.{PRIORITY}", "real", 0.0, 1.0, THRESHOLD, sigma=0.25)
            for parent in self._parents
        )

    def members(self, priorities: Sequence[float]) -> list[tuple[str, ...]]:
        """Return for each merge method the parents that it merges, in the order of its sources."""
        by_parent = dict(zip(self._parents, priorities, strict=True))
        return [self._members(item, by_parent) for item in self._inputs]

    def priorities(self, shares: Mapping[str, float]) -> list[float] | None:
        """Return priorities by which exactly these parents are in; None if there are none."""
        members = [parent for parent in self._parents if parent in shares]
        if len(members) > self._most or any(item.method.parents[0] > 1 for item in self._inputs):
            return None
        return [float(parent in members) for parent in self._parents]

    def _members(self, used: MethodInputs, priorities: Mapping[str, float]) -> tuple[str, ...]:
        fewest, limit = used.method.parents
        most = min(self._most, len(used.sources), limit or self._most)
        ranked = sorted(used.sources, key=lambda parent: -priorities[parent])  # stable
        above = sum(priorities[parent] >= THRESHOLD for parent in ranked)
        members = ranked[: max(fewest, min(most, above), 1)]
        return tuple(parent for parent in used.sources if parent in members)


def make_pool(inputs: Sequence[MethodInputs], most: int | None) -> ParentPool | None:
    """Return the pool of a space; None if each candidate merges all parents, or the only one."""
    is_one = len({name for item in inputs for name in item.sources}) == 1
    return None if most is None or (is_one and most == 1) else ParentPool(inputs, most)
