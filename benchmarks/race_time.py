"""Measures what racing saves of the CPU time of scoring, at the size of your models.

    python benchmarks/race_time.py SEARCH_FILE [--set KEY.PATH=VALUE ...]
                                   [--candidates N] [--documents N] [--seed N]
                                   [--optimizer NAME] [--generation N] [--races N]
                                   [--confidence X ...] [--minimum N] [--records FILE] [--quick]

The search proposes its candidates as without racing, and each is merged and scored once, on all
search documents. Then races are run over these scores, each with another order of the documents,
as in a search: against the best candidate at the start of the generation; baselines are scored on
all documents, and so is a finalist whose score is an estimate. The time of a sample follows from
its size: the time of starting a batch, and that of a document, are fitted to the CPU time of
samples of several sizes, scored by the uniform merge. Times are CPU seconds on one thread.

Printed are the times of samples, then for each confidence the documents and the time of races, as
shares of scoring all; where the time goes; of the candidates stopped, how many were ahead; and how
far the best finalist is behind the best candidate, in points on the search documents. The last line
is one JSON object of these. What was scored is kept in `--records`; a later call goes on from it.
"""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from evomerge.config.schema import SearchConfig, load, parse
from evomerge.errors import CandidateError
from evomerge.evaluation.evaluator import Answers, Evaluator
from evomerge.evaluation.racing import Race, score_in_race
from evomerge.evaluation.tasks.documents import in_order
from evomerge.scores import Failure, Scores, fitness
from evomerge.searching.ranking import FINALISTS
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.runs import prepare
from evomerge.setup.strategy import make_strategy
from evomerge.setup.worker import make_worker

SIZES = (5, 10, 25, 50, 100)
FAILED = Failure("evaluate", "The candidate could not be scored.")


@dataclass
class Records:
    """What was scored.

    Attributes:
        scores: of each candidate, on all documents; None: it failed.
        generations: number of the generation of each candidate; that of baselines is 0.
        seconds: CPU time of scoring each.
        samples: number of documents -> CPU seconds of scoring so many by the uniform merge.
    """

    scores: list[Scores | None] = field(default_factory=list)
    generations: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    merging: list[float] = field(default_factory=list)
    samples: dict[int, float] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a search file")
    parser.add_argument("--set", action="append", metavar="KEY.PATH=VALUE", help="change its keys")
    parser.add_argument("--candidates", type=int, default=40, help="baselines included")
    parser.add_argument("--documents", type=int, help="search documents, in place of the file's")
    parser.add_argument("--seed", type=int, help="of the search, in place of the file's")
    parser.add_argument("--optimizer", help="in place of the file's")
    parser.add_argument("--generation", type=int, help="race as if so many were a generation")
    parser.add_argument("--races", type=int, default=20, help="orders of the documents")
    parser.add_argument("--confidence", type=float, nargs="+", default=[Race.confidence])
    parser.add_argument("--minimum", type=int, default=Race.minimum)
    parser.add_argument("--records", type=Path, help="file to keep what was scored")
    parser.add_argument("--quick", action="store_true", help="24 candidates, 150 documents")
    options = parser.parse_args()
    if options.quick:
        options.candidates, options.documents = 24, 150
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    problem = prepare(changed(load(options.file, options.set), options), options.file.parent)
    if problem.config.optimizer.descends or problem.config.beside_fitness:
        parser.error("nothing races by gradients, nor where more than one fitness counts")
    records = Records()
    if options.records and options.records.exists():
        records = pickle.loads(options.records.read_bytes())
    record(problem, options.candidates, records, options.records)
    start, each = show_samples(records)
    if options.generation:
        count = records.generations.count(0)
        proposed = range(len(records.generations) - count)
        records.generations[count:] = [1 + n // options.generation for n in proposed]
    found = {}
    for confidence in options.confidence:
        races = [
            race(problem, records, Race(confidence, options.minimum, seed), start / each)
            for seed in range(options.races)
        ]
        found[f"{confidence:g}"] = show(confidence, races)
    print(json.dumps(found))


def changed(config: SearchConfig, options: argparse.Namespace) -> SearchConfig:
    """Return a search file without racing, and with what the options name."""
    plain = config.model_dump(mode="json")
    evaluation = plain["evaluation"]
    evaluation |= {"threads": 1}
    evaluation["racing"] |= {"enabled": False}
    evaluation["search"] |= {"documents": options.documents} if options.documents else {}
    plain |= {} if options.seed is None else {"seed": options.seed}
    plain |= {"optimizer": {"name": options.optimizer}} if options.optimizer else {}
    return parse(plain, "benchmark")


def record(problem: CheckedSearch, candidates: int, records: Records, file: Path | None) -> None:
    """Merge and score the candidates that are not in the records yet; time samples first."""
    strategy, baselines = make_strategy(problem), problem.space.baselines()
    worker = None
    pending: list[int] = []
    for number in range(candidates):
        labels = list(baselines)
        if number < len(labels):
            strategy.add_baseline(number, labels[number])
            recipe, generation = baselines[labels[number]], 0
        else:
            if number > len(labels) and strategy.left == strategy.generation:
                for one in pending:
                    strategy.tell(one, records.scores[one] or FAILED)
                pending, generation = [], generation + 1
            generation = max(generation, 1)
            recipe = strategy.ask(number)[0]
        pending.append(number)
        if number < len(records.scores):
            continue
        worker = worker or make_worker(problem, 1, 1)
        began = time.process_time()
        model = worker.build(recipe)
        merged = time.process_time()
        try:
            scores: Scores | None = worker.evaluator.score(model, "search")
        except CandidateError as error:
            print(f"candidate {number} failed: {error}")
            scores = None
        records.scores.append(scores)
        records.generations.append(generation)
        records.seconds.append(time.process_time() - merged)
        records.merging.append(merged - began)
        if number == len(labels) - 1:
            records.samples = timed(worker.evaluator, model, problem.splits["search"])
        if file is not None:
            file.write_bytes(pickle.dumps(records))


def timed(evaluator: Evaluator, model: Any, every: Mapping[str, Sequence[int]]) -> dict[int, float]:
    """Return the CPU seconds of scoring samples, by size."""
    samples, total = {}, sum(map(len, every.values()))
    for size in (*(size for size in SIZES if size < total), total):
        part = {
            task: [ids[i] for i in in_order(len(ids), "sizes")[: len(ids) * size // total]]
            for task, ids in every.items()
        }
        began = time.process_time()
        evaluator.answer(model, "search", part)
        samples[size] = time.process_time() - began
    return samples


def show_samples(records: Records) -> tuple[float, float]:
    """Print the time of samples; return the fitted seconds of starting one and of a document."""
    sizes, seconds = np.array(list(records.samples.items())).T
    each, start = np.polyfit(sizes, seconds, 1, w=1 / seconds)
    print(f"{'documents at once':20}{'CPU ms a document':>20}")
    for size, spent in records.samples.items():
        print(f"{size:<20}{1000 * spent / size:20.1f}")
    texts = f"as much as {start / each:.0f} documents"
    print(f"\nStarting a sample takes {start:.2f} s, {texts} of {1000 * each:.1f} ms each.")
    scoring, merging = sum(records.seconds), sum(records.merging)
    print(f"All {len(records.scores)} candidates: scoring {scoring:.1f} s, merging {merging:.1f} s")
    return float(start), float(each)


class Recorded:
    """An evaluator whose models are recorded scores; it counts what it scores.

    Attributes:
        calls: number of samples.
        documents: number of documents.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self.tasks_of, self.calls, self.documents = evaluator.tasks_of, 0, 0

    def answer(self, model: Scores, split: Any, part: Mapping[str, Sequence[int]]) -> Answers:
        self.calls += 1
        self.documents += sum(map(len, part.values()))
        rows = {}
        for task, ids in part.items():
            places = {document: place for place, document in enumerate(model.documents[task])}
            columns = model.of_task(task)
            rows[task] = {i: {k: column[places[i]] for k, column in columns.items()} for i in ids}
        return Answers(rows)


Shares = dict[str, float]


def race(problem: CheckedSearch, records: Records, policy: Race, start: float) -> Shares:
    """Run the races of a search over recorded scores; `start`: what a sample costs in documents."""
    objectives = problem.objectives
    whole = [scores for scores in records.scores if scores is not None]
    generations = [g for g, s in zip(records.generations, records.scores, strict=True) if s]
    points = [100 * fitness(objectives, scores) for scores in whole]
    total = sum(whole[0].fidelity.values())
    spent: Counter[str] = Counter()
    documents, raced = 0, list[Scores]()
    stopped = ahead = 0
    for number, scores in enumerate(whole):
        first = generations.index(generations[number])
        known = [n for n in range(first) if not raced[n].expected]
        incumbent = max(known, key=lambda n: (points[n], -n), default=None)
        if incumbent is None:
            raced.append(scores)
            spent["baselines"] += total + start
            documents += total
            continue
        evaluator: Any = Recorded(problem.evaluator)
        about = (scores, "search", whole[incumbent], first, objectives)
        raced.append(score_in_race(policy, evaluator, *about))
        is_ahead, is_stopped = points[number] > points[incumbent], bool(raced[-1].expected)
        stopped, ahead = stopped + is_stopped, ahead + (is_stopped and is_ahead)
        kind = "stopped" if is_stopped else "ahead" if is_ahead else "behind"
        spent[kind] += evaluator.documents + start * evaluator.calls
        documents += evaluator.documents
    count = problem.config.evaluation.validation.finalists or FINALISTS
    while True:
        order = sorted(range(len(raced)), key=lambda n: (-fitness(objectives, raced[n]), n))
        estimated = [n for n in order[:count] if raced[n].expected]
        if not estimated:
            break
        for number in estimated:
            raced[number] = whole[number]
            spent["finalists"] += total + start
            documents += total
    kinds = ("baselines", "stopped", "behind", "ahead", "finalists")
    every = len(whole) * (total + start)
    return {
        "documents": documents / (len(whole) * total),
        "time": sum(spent.values()) / every,
        **{kind: spent[kind] / every for kind in kinds},
        "wrong": ahead / max(1, stopped),
        "points": points[order[0]] - max(points),
    }


def show(confidence: float, races: Sequence[Shares]) -> Shares:
    """Print and return the means of races, and the worst winner."""
    means = {key: round(fmean(one[key] for one in races), 3) for key in races[0]}
    means["worst"] = round(min(one["points"] for one in races), 2)
    shares = ("baselines", "stopped", "behind", "ahead", "finalists")
    print(
        f"\nconfidence {confidence:g}: {means['documents']:.1%} of the documents, "
        f"{means['time']:.1%} of the time of scoring"
        f"\n  ({', '.join(f'{name} {means[name]:.1%}' for name in shares)})"
        f"\n  of those stopped, {means['wrong']:.1%} were ahead; the best finalist is "
        f"{means['points']:+.2f} points from the best candidate (worst of {len(races)}: "
        f"{means['worst']:+.2f})"
    )
    return means


if __name__ == "__main__":
    main()
