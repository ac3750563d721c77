"""Repeats the digits experiment of M2N2 (arXiv 2508.16204) with the search strategy `niches`.

    python benchmarks/niches.py [--quick] [--seeds N] [--merges N] [--generation N]

Two networks of 64-256-10 neurons (19,210 weights) are trained for ten steps of Adam, one on the
digits 0 to 4, one on 5 to 9, of scikit-learn's 1,797 images of handwritten digits. Their merges are
searched for a network that knows all ten digits. A document is an image: four fifths are searched
on, the rest is tested. Everything is as in the authors' script (github.com/SakanaAI/natural_niches,
`--use_pre_trained`), but with numpy, and so with other random numbers; and each seed trains two
experts of its own.

niches: competition and attraction. genetic algorithm: neither, so that the members of the archive
are the best ones, and mates are drawn by their scores. random: crossovers of the two experts, and
no others. After each search the network with the best accuracy on the searched images is tested.

The last line is one JSON object: the mean test accuracy of each, as a ratio to that of the average
of the two experts.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from evomerge.recipe import Layer, Recipe
from evomerge.scores import Scores
from evomerge.strategy.members import Mate
from evomerge.strategy.niches import CrossoverSpace, NichesOptions, NichesStrategy
from evomerge.strategy.protocol import Origin

Array = NDArray[np.float64]

INPUTS, HIDDEN, OUTPUTS = 64, 256, 10
WEIGHTS = (INPUTS + 1) * HIDDEN + (HIDDEN + 1) * OUTPUTS
STEPS, RATE = 10, 0.003
SETTINGS = {
    "niches": NichesOptions(),
    "genetic algorithm": NichesOptions(alpha=0.0, attraction=False),
}


@dataclass(frozen=True)
class Images:
    """Images as rows of 64 numbers, and their digits."""

    pixels: Array
    digits: NDArray[np.int64]

    def right(self, weights: Array) -> Array:
        """Return 1 for each image that a network knows, 0 for the others."""
        return (logits(weights, self.pixels)[1].argmax(axis=1) == self.digits).astype(float)


class WeightSpace(CrossoverSpace):
    """Crossovers that are split anywhere in the vector of all weights."""

    places = WEIGHTS

    def cross(self, first: Mate, second: Mate, split: int, t: float) -> Recipe:
        """Return an empty recipe: this benchmark builds networks from origins."""
        return Recipe("", {}, Layer("", ()), Layer("", ()))


def parts(weights: Array) -> tuple[Array, Array, Array, Array]:
    """Return both layers' matrices and biases as views of a network's weights."""
    ends = np.cumsum([INPUTS * HIDDEN, HIDDEN, HIDDEN * OUTPUTS])
    one, bias, two, last = np.split(weights, ends)
    return one.reshape(INPUTS, HIDDEN), bias, two.reshape(HIDDEN, OUTPUTS), last


def logits(weights: Array, pixels: Array) -> tuple[Array, Array]:
    """Return the hidden layer and the output of a network."""
    one, bias, two, last = parts(weights)
    hidden = np.maximum(pixels @ one + bias, 0)
    return hidden, hidden @ two + last


def train(images: Images, seed: int) -> Array:
    """Return a network trained on images, from random weights, with all images in each step."""
    weights = np.random.default_rng(seed).normal(0, 0.01, WEIGHTS)
    mean, square = np.zeros(WEIGHTS), np.zeros(WEIGHTS)
    target = np.eye(OUTPUTS)[images.digits]
    for step in range(1, STEPS + 1):
        hidden, out = logits(weights, images.pixels)
        shares = np.exp(out - out.max(axis=1, keepdims=True))
        error = (shares / shares.sum(axis=1, keepdims=True) - target) / len(target)
        back = (error @ parts(weights)[2].T) * (hidden > 0)
        slopes = (images.pixels.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0))
        slope = np.concatenate([item.ravel() for item in slopes])
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        moved = (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        weights = weights - RATE * moved
    return weights


def slerp(one: Array, two: Array, t: Array) -> Array:
    """Return the point at t of the arc between two vectors; t is a number for each coordinate."""
    cosine = one @ two / (np.linalg.norm(one) * np.linalg.norm(two))
    angle = np.arccos(np.clip(cosine, -1, 1))
    sine = np.sin(angle)
    if sine <= 1e-6:
        return (1 - t) * one + t * two
    return (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / sine


def build(origin: Origin, networks: Mapping[int, Array]) -> Array:
    """Return the network of a crossover."""
    one, two = (networks[number] for number in origin["mates"])
    before = np.arange(WEIGHTS) < origin["split"]
    return slerp(one, two, np.where(before, origin["t"], 1 - origin["t"]))


def search(
    experts: Sequence[Array],
    images: Images,
    setting: NichesOptions,
    merges: int,
    seed: int,
    generation: int,
) -> Array:
    """Search with the strategy, and return the best member of the last archive."""
    rights: dict[int, Array] = {}
    space = WeightSpace(parents=["0 to 4", "5 to 9"], host="0 to 4", stacks={"": 1})
    worth = np.ones(len(images.digits))
    strategy = NichesStrategy(
        space,
        lambda scores: (np.array(scores.values["digits/acc"]), worth),
        setting,
        seed,
        generation,
    )
    networks = dict(enumerate(experts))
    for number, label in enumerate(space.parents):
        strategy.add_baseline(number, label)
    told = 0
    for number in range(len(experts), len(experts) + merges):
        if strategy.left == strategy.generation:
            tell(strategy, networks, images, range(told, number), rights)
            told = number
        origin = strategy.ask(number).origin
        networks[number] = build(origin, networks)
        kept = {*strategy.archive.members, *range(told, number + 1)}
        networks = {item: network for item, network in networks.items() if item in kept}
    tell(strategy, networks, images, range(told, len(experts) + merges), rights)
    best = max(strategy.archive.members, key=lambda item: rights[item].mean())
    return networks[best]


def tell(
    strategy: NichesStrategy,
    networks: Mapping[int, Array],
    images: Images,
    numbers: range,
    rights: dict[int, Array],
) -> None:
    """Score candidates on the searched images, and tell the strategy."""
    for number in numbers:
        rights[number] = images.right(networks[number])
        values = {"digits/acc": tuple(rights[number].tolist())}
        strategy.tell(number, Scores({"digits": tuple(range(len(images.digits)))}, values, {}))


def at_random(experts: Sequence[Array], images: Images, merges: int, seed: int) -> Array:
    """Return the best of random crossovers of the experts."""
    random = np.random.default_rng(seed)
    best, highest = experts[0], -1.0
    for _ in range(merges):
        origin = {"mates": [0, 1], "split": random.integers(WEIGHTS), "t": random.random()}
        network = build(origin, dict(enumerate(experts)))
        found = images.right(network).mean()
        if found > highest:
            best, highest = network, found
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, 200 merges")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--merges", type=int, default=1000)
    parser.add_argument("--generation", type=int, default=1, help="merges between two tells")
    options = parser.parse_args()
    seeds, merges = (1, 200) if options.quick else (options.seeds, options.merges)
    pixels, digits = load_digits(return_X_y=True)
    border = int(0.8 * len(digits))
    searched, tested = (
        Images(pixels[span], digits[span]) for span in (slice(border), slice(border, None))
    )
    few = searched.digits < 5
    found: dict[str, list[float]] = {}
    known: dict[str, list[float]] = {}
    for seed in range(seeds):
        experts = [
            train(Images(searched.pixels[mask], searched.digits[mask]), 2 * seed + place)
            for place, mask in enumerate((few, ~few))
        ]
        networks = {"digits 0 to 4": experts[0], "digits 5 to 9": experts[1]}
        networks["average"] = (experts[0] + experts[1]) / 2
        networks["random"] = at_random(experts, searched, merges, seed)
        for name, setting in SETTINGS.items():
            began = time.process_time()
            networks[name] = search(experts, searched, setting, merges, seed, options.generation)
            spent = time.process_time() - began
        for name, network in networks.items():
            found.setdefault(name, []).append(100 * float(tested.right(network).mean()))
            known.setdefault(name, []).append(100 * float(searched.right(network).mean()))
    print(f"{merges} merges, {seeds} seeds, {spent:.1f} CPU-s a search; accuracy in per cent")
    print(f"{'network':20}{'searched':>9}{'test':>7}{'std':>6}   test of each seed")
    for name, values in found.items():
        each = " ".join(f"{value:.1f}" for value in values)
        mean = f"{np.mean(known[name]):9.1f}{np.mean(values):7.1f}{np.std(values):6.1f}"
        print(f"{name:20}{mean}   {each}")
    average = np.mean(found["average"])
    names = ("random", "genetic algorithm", "niches")
    print(json.dumps({name: round(float(np.mean(found[name]) / average), 3) for name in names}))


if __name__ == "__main__":
    main()
