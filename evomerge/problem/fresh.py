"""Fresh documents: each generation of candidates is scored on a sample of its own.

A strategy like CMA-ES compares the candidates of one generation only. So these are scored on the
same few documents, and the next generation on others, as in training by minibatches: many cheap
generations find better merges than few dear ones, and none can fit one sample (docs/documents.md).
A score on a sample is an estimate, so the best candidate is sought elsewhere: now and then the
strategy is asked for the genome that it believes in, which is scored on all search documents.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evomerge.evaluation.tasks.documents import in_order
from evomerge.scores import Documents, Expected, Scores

BELIEF = 10
"""Generations after which the genome that the strategy believes in is scored on all documents.
Fewer, if they are large: as many as together score `BELIEF` times the number of all documents."""


@dataclass(frozen=True)
class FreshDocuments:
    """Draws the documents of each generation.

    Attributes:
        pool: task -> ids of all search documents.
        count: number of documents of each task in a sample.
        seed: determines the samples, with the number of the generation.
    """

    pool: Documents
    count: int
    seed: int = 0

    def sample(self, generation: int, count: int) -> dict[str, tuple[int, ...]]:
        """Return `count` documents of each task for a generation: task -> ascending ids."""
        drawn = {}
        for task, ids in self.pool.items():
            order = in_order(len(ids), f"{self.seed}/fresh/{generation}/{task}")
            drawn[task] = tuple(sorted(ids[place] for place in order[:count]))
        return drawn

    def generations_to_mean(self, size: int) -> int:
        """Return after how many generations the genome that the strategy believes in is scored.

        `size`: number of candidates of a generation.
        """
        documents = sum(map(len, self.pool.values()))
        sample = sum(min(self.count, len(ids)) for ids in self.pool.values())
        return min(BELIEF, -(-BELIEF * documents // (size * sample)))

    def estimate(self, scores: Scores) -> Scores:
        """Return scores on a sample with what they say about all documents (`Scores.expected`)."""
        expected = {}
        for key, values in scores.values.items():
            total = len(self.pool[key.rpartition("/")[0]])
            expected[key] = Expected(scores.aggregates[key], standard_error(values, total))
        return replace(scores, expected=expected)


def standard_error(values: Sequence[float], total: int) -> float:
    """Return the standard error of the mean of a sample of `total` documents.

    Shares get two right answers and two wrong ones more, as twelve right answers of twelve do not
    mean that all others are right (Agresti and Coull 1998).
    """
    is_share = all(0 <= value <= 1 for value in values)
    known = [*values, 0.0, 0.0, 1.0, 1.0] if is_share else values
    count, mean = len(known), math.fsum(known) / len(known)
    spread = math.fsum((value - mean) ** 2 for value in known)
    of_one = spread / (count if is_share else max(1, count - 1))
    return math.sqrt(of_one / count * (1 - len(values) / total))


def restricted(scores: Scores, documents: Documents) -> Scores:
    """Return scores on some of their documents; metrics must be means over documents."""
    values = {}
    for key, column in scores.values.items():
        task = key.rpartition("/")[0]
        chosen = set(documents[task])
        pairs = zip(scores.documents[task], column, strict=True)
        values[key] = tuple(value for document, value in pairs if document in chosen)
    means = {key: sum(column) / len(column) for key, column in values.items()}
    ids = {task: tuple(documents[task]) for task in scores.documents}
    return replace(scores, documents=ids, values=values, aggregates={**scores.aggregates, **means})
