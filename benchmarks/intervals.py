"""How often 95 % intervals have the true value in them, and how often equal models seem to differ.

    python benchmarks/intervals.py [--quick] [--runs N]

Documents are drawn from distributions whose means are known; each task has new ones. For each
metric, number of tasks and number of documents of a task, the first table has the share of
intervals of the mean over the tasks that have the true mean in them. The second compares two models
that are equally good, but answer documents differently: the share of comparisons whose interval is
above or below 0. `--quick` takes fewer runs and documents. The last line is one JSON object: what
was measured -> share.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.report import means
from evomerge.report.means import Sample

SHARE = (0.0, 1.0)
ANY = (-np.inf, np.inf)


@dataclass(frozen=True)
class Metric:
    """Values of documents whose true mean is known.

    Attributes:
        name: what it is like.
        draw: generator and shape -> values.
        mean: the true mean.
        bounds: smallest and largest possible value.
        is_share: whether it is a share, and not a length with a known limit.
    """

    name: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], Any]
    mean: float
    bounds: tuple[float, float] = SHARE
    is_share: bool = True


def right_or_wrong(p: float) -> Metric:
    return Metric(f"right or wrong, {p:g}", lambda r, shape: 1.0 * (r.random(shape) < p), p)


def partly(name: str, nothing: float, all_of_it: float) -> Metric:
    """Return a metric like F1: often 0 or 1, else anything between (beta(2, 2))."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
        kind, value = generator.random(shape), generator.beta(2, 2, shape)
        return np.where(kind < nothing, 0.0, np.where(kind > 1 - all_of_it, 1.0, value))

    return Metric(name, draw, all_of_it + (1 - nothing - all_of_it) / 2)


def lengths(sigma: float, limit: float = np.inf) -> Metric:
    """Return lengths of texts: lognormal, up to a limit."""
    from scipy.stats import norm

    far = np.log(limit / 100) / sigma
    mean = 100 * np.exp(sigma**2 / 2) * norm.cdf(far - sigma)
    is_limited = np.isfinite(limit)
    return Metric(
        f"lengths, lognormal {sigma:g}" + (f", at most {limit:g}" if is_limited else ""),
        lambda r, shape: np.minimum(100 * np.exp(r.normal(0, sigma, shape)), limit),
        float(mean + limit * norm.sf(far) if is_limited else mean),
        (0.0, limit) if is_limited else ANY,
        False,
    )


def runaways(share: float, limit: float, is_known: bool) -> Metric:
    """Return lengths of 80 to 120, a few of which run away to the limit."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
        usual = generator.integers(80, 121, shape)
        return np.where(generator.random(shape) < share, limit, usual)

    return Metric(
        f"{100 * share:g} % run away to {limit:g}" + ("" if is_known else ", unknown"),
        draw,
        share * limit + (1 - share) * 100,
        (0.0, limit) if is_known else ANY,
        False,
    )


METRICS = (
    *map(right_or_wrong, (0.01, 0.1, 0.5, 0.9, 0.99)),
    partly("F1, 45 % are 0, 25 % are 1", 0.45, 0.25),
    partly("F1, 90 % are 0, 5 % are 1", 0.9, 0.05),
    partly("F1, 5 % are 0, 85 % are 1", 0.05, 0.85),
    Metric("small shares, beta(1/2, 5)", lambda r, shape: r.beta(0.5, 5, shape), 1 / 11),
    lengths(0.5, 1024),
    lengths(1.0, 1024),
    runaways(0.01, 2048, True),
    runaways(0.05, 2048, True),
    lengths(0.5),
    lengths(1.0),
    runaways(0.01, 2048, False),
)

MANY = ((right_or_wrong(0.6), 57, 5), (right_or_wrong(0.95), 57, 5))
"""Many tasks of very few documents: metric, number of tasks and of documents of each."""


def coverage(
    metric: Metric, tasks: int, documents: int, runs: int, generator: np.random.Generator
) -> float:
    """Return the share of intervals of the mean over tasks that have the true mean in them."""
    drawn = [metric.draw(generator, (runs, documents)) / tasks for _ in range(tasks)]
    bounds = tuple(bound / tasks for bound in metric.bounds)
    low, high = means.interval([_sample(values, bounds, metric.is_share) for values in drawn])
    return float(np.mean((low <= metric.mean) & (metric.mean <= high)))


def false_differences(
    metric: Metric, tasks: int, documents: int, runs: int, generator: np.random.Generator
) -> float:
    """Return how often the interval of the difference of two equal models is above or below 0.

    The models have the same value on two thirds of the documents, and independent ones on the rest.
    """
    least, most = metric.bounds
    bounds = ANY if metric.bounds == ANY else (least - most, most - least)
    reach: Any = None
    samples = []
    for _ in range(tasks):
        one, other = (metric.draw(generator, (runs, documents)) for _ in range(2))
        differs = generator.random((runs, documents)) < 1 / 3
        if metric.bounds == ANY:
            both = np.concatenate([one, np.where(differs, other, one)], axis=-1)
            reach = np.ptp(both, axis=-1)
        values = np.where(differs, one - other, 0.0)
        samples.append(_sample(values, bounds, metric.is_share, reach))
    low, high = means.interval(samples)
    return float(np.mean((low > 0) | (high < 0)))


def _sample(
    values: Any, bounds: tuple[float, ...], is_share: bool = True, reach: Any = None
) -> Sample:
    """Return many samples at once; few different values are counted, which is faster."""
    if not is_share:
        return Sample.of(values, bounds, is_share=False, reach=reach)
    different = np.unique(values[0])
    if len(different) > 3 or not np.isin(values, different).all():
        different = np.unique(values)
    if len(different) > 3:
        return Sample.of(values, bounds)
    shares = np.stack([(values == value).mean(axis=-1) for value in different], axis=-1)
    low, high = np.asarray(bounds)
    return Sample(different, shares, values.shape[-1], low, high)


def table(
    title: str, measure: Callable[..., float], sizes: list[int], counts: list[int], runs: int
) -> Iterator[tuple[str, float]]:
    """Print a table in per cent: a row for each metric and number of tasks; yield its cells."""
    print(f"{title:38} tasks" + "".join(f"{size:>8}" for size in sizes))
    generator = np.random.default_rng(0)
    for metric in METRICS:
        for tasks in counts:
            shares = [measure(metric, tasks, size, runs, generator) for size in sizes]
            print(f"{metric.name:38} {tasks:5}" + "".join(f"{100 * x:8.1f}" for x in shares))
            for size, share in zip(sizes, shares, strict=True):
                yield f"{title}: {metric.name}, {tasks} x {size}", round(share, 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer runs and documents")
    parser.add_argument("--runs", type=int, help="runs of each cell (2,000; with --quick 400)")
    options = parser.parse_args()
    runs = options.runs or (400 if options.quick else 2000)
    sizes, counts = ([20, 100], [1, 3]) if options.quick else ([20, 50, 100, 600], [1, 2, 3])
    found = dict(table("coverage", coverage, sizes, counts, runs))
    generator = np.random.default_rng(1)
    for metric, tasks, size in MANY:
        share = coverage(metric, tasks, size, runs, generator)
        print(f"{metric.name}, {tasks} tasks of {size} documents: {100 * share:.1f}")
        found[f"coverage: {metric.name}, {tasks} x {size}"] = round(share, 4)
    print()
    found |= dict(table("false differences", false_differences, sizes, counts, runs))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
