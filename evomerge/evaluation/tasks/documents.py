"""The choice of search, validation and test documents: disjoint, and the same for equal seeds."""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, TypeAlias

from evomerge.errors import ConfigError
from evomerge.scores import Split

Size: TypeAlias = int | Literal["all", "auto"]

USUAL = 200
"""Documents of each task that `auto` takes, if there are enough."""


@dataclass(frozen=True)
class DocumentPool:
    """The documents that can be chosen for a task and a split.

    Attributes:
        source: the task and the split of the task that they come from; in equal sources, equal
            ids are the same document.
        count: number of documents; their ids are 0 .. count - 1.
        forms: document id -> texts by which it is compared. Two documents that have one of them in
            common are the same document.
    """

    source: str
    count: int
    forms: Callable[[int], Sequence[str]] = lambda document: ()
    dataset: str = ""

    def known_as(self, document: int) -> tuple[str, ...]:
        """Return all texts by which a document is compared, its source and id included."""
        return (f"{self.source} {document}", *self.forms(document))

    def users(self, document: int, owners: Mapping[str, Split]) -> set[Split]:
        """Return the splits that use a document; `owners` says whose each text is."""
        return {owners[form] for form in self.known_as(document) if form in owners}


def choose_documents(
    sizes: Mapping[Split, Size],
    pools: Mapping[Split, Mapping[str, DocumentPool]],
    seed: int,
    wanted: int = USUAL,
) -> dict[Split, dict[str, tuple[int, ...]]]:
    """Choose the documents of every split, so that no two splits share one.

    If tasks of one data set have documents in common, a split prefers to use the same ones for each
    of them. (To find these in other data sets, too, hundreds of thousands might be rendered.)

    `sizes` has the number of documents per task; `all` takes every document that the other splits
    do not use, and `auto` the first `wanted` of `USUAL` ones, by which the other splits have the
    same documents whatever is wanted. Together with the names of the tasks, the seed determines the
    choice. The result is split -> task -> ascending ids.

    Raises:
        ConfigError: there are too few documents, or two splits ask for all of them.
    """
    chosen: dict[Split, dict[str, tuple[int, ...]]] = {split: {} for split in sizes}
    owners: dict[str, Split] = {}
    for split in sorted(sizes, key=lambda split: sizes[split] == "all"):
        for task, pool in pools[split].items():
            order, asked = in_order(pool.count, f"{seed}/{task}"), sizes[split]
            sharing = sum(i.source == pool.source for of in pools.values() for i in of.values())
            size = min(USUAL, max(1, pool.count // sharing)) if asked == "auto" else asked
            first = all(pools[split][other].dataset != pool.dataset for other in chosen[split])
            unused = (i for i in order if pool.users(i, owners) <= {split})
            free: Iterable[int] = unused
            if size != "all" and not first:
                free = sorted(unused, key=lambda i: split not in pool.users(i, owners))
            ids = list(free if size == "all" else islice(free, size))
            if len(ids) < (1 if size == "all" else size):
                different = len({pool.known_as(document)[-1] for document in order})
                raise ConfigError(
                    f"`evaluation.{split}.documents` is {size!r}, but {len(ids)} of {pool.count} "
                    f"documents of {pool.source!r} are left for it, since no two splits share one; "
                    f"set it to {max(1, different // sharing)} or less in each split (one may be "
                    "`all`), or take another source (`task_split`, `tasks`)."
                )
            owners |= {form: split for document in ids for form in pool.known_as(document)}
            chosen[split][task] = tuple(sorted(ids))
    for split in (split for split, size in sizes.items() if size == "auto"):
        for task, pool in pools[split].items():
            own, order = set(chosen[split][task]), in_order(pool.count, f"{seed}/{task}")
            kept = [document for document in order if document in own][:wanted]
            chosen[split][task] = tuple(sorted(kept))
    return chosen


def in_order(count: int, key: str) -> list[int]:
    """Return ids 0 .. count - 1 in a random order that depends only on `key`."""
    order = list(range(count))
    random.Random(key).shuffle(order)
    return order
