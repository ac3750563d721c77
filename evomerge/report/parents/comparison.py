"""What a person reads of parents before they are merged: figures, differences, advice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.report.parents.texts import text_differences
from evomerge.report.parents.weights import Floats, Weights, compare_weights

_OTHER_BASE = 1.0
"""Change of attention and mlp from which on a parent was not trained from the base (at right angles
it is 1.41). Norms are left out: those of all models are alike. See `benchmarks/compare.py`."""

_ALIKE = 0.4
"""Cosine of task vectors from which on two parents have learned the same: from 0.40 on in twelve
pairs for one task, and at most 0.05 in 34 pairs for two (`benchmarks/compare.py`)."""

_ACROSS = "in our measurements averages across bases kept 5 of 67 points"

_SHOWN = ("attention", "mlp", "embeddings", "head", "vision", "projector", "audio")


@dataclass(frozen=True)
class ParentComparison:
    """How parents differ from their base and from each other.

    Attributes:
        base: reference of what changes are measured from, or None.
        parents: their references.
        names: reference -> short name, of base and parents.
        weights: the sums that all figures follow from.
        texts: how tokenizers and chat templates differ, in sentences.
    """

    base: str | None
    parents: Sequence[str]
    names: Mapping[str, str]
    weights: Weights
    texts: Sequence[str]

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Each two parents by their places in `parents`."""
        return list(itertools.combinations(range(len(self.parents)), 2))

    def pair_name(self, pair: tuple[int, int]) -> str:
        """Return the names of two parents."""
        return " - ".join(self.names[self.parents[place]] for place in pair)

    def parent_rows(self) -> tuple[list[str], list[list[str]]]:
        """Return headers and rows of the table of parents; without a base there are no rows."""
        if self.base is None:
            return [], []
        found = self.weights.components
        columns = {name: found[name] for name in _SHOWN if name in found}
        heads = ["parent", "change", *columns]
        whole = self.weights.whole
        rows = [
            [
                self.names[parent],
                _percent(whole.change[place]),
                *(_percent(sums.change[place]) for sums in columns.values()),
            ]
            for place, parent in enumerate(self.parents)
        ]
        return heads, rows

    def pair_rows(self) -> tuple[list[str], list[list[str]]]:
        """Return headers and rows of the table of pairs; of one parent there are no rows."""
        if not self.pairs:
            return [], []
        whole = self.weights.whole
        if self.base is None:
            heads = ["parents", "distance", "cosine"]
            rows = [
                [
                    self.pair_name(pair),
                    _percent(whole.distances[pair]),
                    _decimal(whole.weight_cosines[pair], 4),
                ]
                for pair in self.pairs
            ]
            return heads, rows
        heads = ["parents", "cosine", "sign conflicts"]
        rows = [
            [
                self.pair_name(pair),
                _decimal(whole.cosines[pair]),
                _percent(whole.conflict_share[pair]),
            ]
            for pair in self.pairs
        ]
        return heads, rows

    @property
    def lead(self) -> str:
        """What is compared, in a sentence."""
        models = ", ".join(self.names[parent] for parent in self.parents)
        base = "without a base" if self.base is None else f"trained from {self.names[self.base]}"
        return f"{models}, {base}: {self.weights.whole.elements:,} weights each."

    @property
    def tables(self) -> dict[str, tuple[list[str], list[list[str]]]]:
        """Title -> headers and rows, of the tables that have rows."""
        if self.base is None:
            titled = {"distance of weights in %, and their cosine": self.pair_rows()}
        else:
            titled = {
                "change of the base's weights in %": self.parent_rows(),
                "cosine of task vectors, and sign conflicts in %": self.pair_rows(),
            }
        return {title: table for title, table in titled.items() if table[1]}

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; what is not defined is None."""
        whole, layers = self.weights.whole, self.weights.by_layer
        components = self.weights.components

        def of_parent(place: int) -> dict[str, Any]:
            return {
                "parent": self.parents[place],
                "change": _plain(whole.change[place]),
                "norm": _plain(whole.norms[place]),
                "changed": _plain(whole.changed_share[place]),
                "components": {n: _plain(s.change[place]) for n, s in components.items()},
                "layers": [_plain(sums.change[place]) for sums in layers],
            }

        def of_pair(pair: tuple[int, int]) -> dict[str, Any]:
            both = {"parents": [self.parents[place] for place in pair]}
            if self.base is None:
                return both | {
                    "distance": _plain(whole.distances[pair]),
                    "cosine": _plain(whole.weight_cosines[pair]),
                    "layers": [_plain(sums.distances[pair]) for sums in layers],
                }
            return both | {
                "cosine": _plain(whole.cosines[pair]),
                "conflicts": _plain(whole.conflict_share[pair]),
                "components": {n: _plain(s.cosines[pair]) for n, s in components.items()},
                "layers": [_plain(sums.cosines[pair]) for sums in layers],
            }

        return {
            "base": self.base,
            "parents": [
                {"parent": parent} if self.base is None else of_parent(place)
                for place, parent in enumerate(self.parents)
            ],
            "pairs": [of_pair(pair) for pair in self.pairs],
            "elements": whole.elements,
            "left_out": list(self.weights.left_out),
            "notes": self.notes,
        }

    @property
    def advice(self) -> list[str]:
        """What these figures say of merges, where our measurements support it, in sentences."""
        whole, layers, names = self.weights.whole, self.weights.matrices, self.names
        found = []
        if self.base is None:
            found += [
                f"{self.pair_name(pair)}: attention and mlp are {_percent(layers.distances[pair])} "
                f"% of their weights apart, so they were not trained from one base; {_ACROSS}."
                for pair in self.pairs
                if layers.distances[pair] >= _OTHER_BASE
            ]
        else:
            found += [
                f"{names[parent]} differs from {names[self.base]} by "
                f"{_percent(layers.change[place])} % of the weights of attention and mlp, so it "
                f"was not trained from it; {_ACROSS}."
                for place, parent in enumerate(self.parents)
                if layers.change[place] >= _OTHER_BASE
            ]
            found += [
                f"{self.pair_name(pair)}: a cosine of {_decimal(whole.cosines[pair])} says that "
                "both have learned much the same; in our measurements averages of such two kept "
                "98 of 100 points."
                for pair in self.pairs
                if whole.cosines[pair] >= _ALIKE
            ]
        return found

    @property
    def notes(self) -> list[str]:
        """Advice, differences of texts, and what was not compared, in sentences."""
        notes = [*self.advice, *self.texts]
        if left := self.weights.left_out:
            what = "tensor is" if len(left) == 1 else "tensors are"
            notes.append(
                f"{len(left)} {what} not compared, since a model lacks them or has another shape: "
                f"{', '.join(left[:2])}{', ...' if len(left) > 2 else ''}."
            )
        if self.base is None:
            notes.append(
                "Without a base it is not known what each parent changed, so there are no task "
                "vectors, no cosines between them and no sign conflicts; give --base."
            )
        return notes


def compare_parents(
    base: Checkpoint | None, parents: Sequence[Checkpoint], names: Mapping[str, str]
) -> ParentComparison:
    """Read the weights of base and parents once, and compare them.

    Args:
        parents: that fit the base, or without one the first of them (`setup.parents.fitting`).
        names: reference of each model -> its short name.

    Raises:
        CheckpointError: a file is damaged, or a model has weights that are not finite.
    """
    models = [base or parents[0], *parents]
    weights = compare_weights(base, parents)
    are_finite = np.isfinite(np.diagonal(weights.whole.products))
    if not are_finite.all():
        broken = models[int(np.argmin(are_finite))]
        raise CheckpointError(
            f"{broken.reference!r} has weights that are not finite, so nothing can be said of it; "
            "give another version of the model."
        )
    return ParentComparison(
        base.reference if base else None,
        [item.reference for item in parents],
        names,
        weights,
        text_differences(list(dict.fromkeys(models)), names),
    )


def _percent(share: float | Floats) -> str:
    return _decimal(100 * float(share), 2 if abs(float(share)) < 0.1 else 1)


def _decimal(value: float | Floats, digits: int = 2) -> str:
    return f"{float(value):.{digits}f}" if math.isfinite(value) else "-"


def _plain(value: float | Floats) -> float | None:
    return float(value) if math.isfinite(value) else None
