"""What a search of `benchmarks/optimizers.py` scores its candidates on."""

from __future__ import annotations

from dataclasses import dataclass

FRESH = ("cma", "diagonal-cma", "cma-margin")
"""Optimizers that compare candidates of one generation only, so that each may have new documents"""


@dataclass(frozen=True)
class Plan:
    """An optimizer, and the documents of its candidates.

    Attributes:
        optimizer: its name.
        documents: of a candidate, of all tasks together; None: as the world says.
        fresh: each generation has a new random sample, the same for all its candidates.
        pool: number of documents that samples are drawn from.
        every: after so many generations the believed genome is scored on the whole pool.
        patience: the sample doubles after so many generations in a row whose differences are no
            larger than their noise; 0: it does not grow.
        population: genomes of a generation; None: as the optimizer likes.
    """

    optimizer: str
    documents: int | None = None
    fresh: bool = False
    pool: int = 200
    every: int = 5
    patience: int = 0
    population: int | None = None

    @property
    def label(self) -> str:
        """Name in tables and files: that of the optimizer, and what is not as the world says."""
        text = self.optimizer
        if self.fresh:
            text += f" fresh {self.documents} of {self.pool} every {self.every}"
        elif self.documents is not None:
            text += f" fixed {self.documents}"
        text += f" grow {self.patience}" if self.patience else ""
        return text + (f" population {self.population}" if self.population else "")
