"""Compares all optimizers at equal numbers of candidates, on real merges.

    python benchmarks/optimizers.py [--quick] [--worlds NAME ...] [--optimizers NAME ...]
                                    [--seeds N] [--first-seed N] [--candidates N]
                                    [--after N ...] [--records DIR] [--picture FILE]
                                    [--documents N ...] [--population N]
                                    [--fresh [--pool N] [--every N] [--grow [GENERATIONS]]]

**Embedded models.** Six spaces over the embedded models are searched for arithmetic in the language
that the maths model does not know (`zoo_l2_maths`). `weights 8`: two parents, with a weight for two
groups of layers, the embeddings and the head. `weights 32`: the same parents, with a weight for the
attention, the feed-forward part, the norms and the rest of four groups of layers. `weights 128`:
the same with eight parents, three experts and five merges of two of these. `slots 96`: a path
through the layers of both models, laid out eight times, with a number for each slot; `switches 96`
is the same with binary genes. `skills 24` is another task: three experts with a weight for each
layer, the embeddings and the head, and the mean of four tasks, as in configs/multitask.yaml. Every
search tries the parents and their average first. Fitness is the share of 100 search documents with
the right answer (of `skills 24`, 20 of each task). After 10, 20, 30, 60, 100, 200 and 300
candidates the five best ones are validated on 200 other documents (40 of each task), and the best
of them is the winner. The table shows its score on the 1,500 test documents (250 of each task): the
mean over the seeds, and the standard error. A seed chooses the documents, too.

`--optimizers "gradient whole"` are descents of which each step learns from all documents.
`--worlds "weights 16" "weights 24" "weights 48"` are like `weights 32` with two, three and six
groups of layers. `--worlds "weights 112" --optimizers gradient` has a weight for
each tensor of two parents. These are run by name only.

**A real model.** `--worlds "smollm2 24" "smollm2 60" "smollm2 180"` merges three experts of
SmolLM2-135M, which `python -m scripts.real.prepare` makes, for the tasks of
scripts/real/three.yaml: a weight for the attention and one for the rest of 4, 10 and 30 groups
of layers and each expert. Candidates have 40 documents of each task, finalists 100, winners 600.
`"smollm2 grid" --optimizers grid` tries what people try by hand: one weight for each expert, on
finer and finer grids. `"smollm2 6"`, `"smollm2 9"`, `"gemma 6"` and `"qwen 96"` are the searches of
spanish.yaml, three.yaml, gemma.yaml and qwen.yaml in scripts/real; `"qwen 6"` and `"qwen 24"` have
three and six groups of layers. A candidate takes seconds, so these are run by name only.

**Fewer documents.** `--documents 25` gives a candidate 25 documents, of all tasks together, and the
same validation and test documents to all such searches. With `--fresh` each generation has a new
sample of `--pool` documents; parents, their average and, after every `--every` generations, the
genome that the optimizer believes in have the whole pool; finalists are the last two of these, and
the best of each of the last three generations. With `--grow` the sample doubles when the
differences within two generations in a row are no larger than their noise. A further table has what
searches cost: documents, and CPU seconds of all that they do, with the validation of finalists and
baselines.

Each search is kept in `--records` (default: runs/optimizers) and is not repeated, so that the
measurement can be interrupted, and divided among processes by `--worlds`. The last line is one JSON
object: space, optimizer and candidates -> the winner's score minus that of random search.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import torch
from choosing.fresh import search_fresh
from choosing.plans import FRESH, Plan
from choosing.records import CHECKPOINTS, Record, Records
from choosing.searches import Cost, Search, Validation, search
from choosing.table import differences, show, show_costs
from choosing.worlds import EMBEDDED, SPACES, World, make_world

from evomerge.optimize import create

ROOT = Path(__file__).resolve().parents[1]
OPTIMIZERS = [
    *("gp", "cma", "diagonal-cma", "cma-margin", "two-points-de", "discrete-lengler"),
    *("nevergrad:OnePlusOne", "sobol", "random"),
]
KNOWN = [
    *(*OPTIMIZERS, "gradient", "gradient whole", "auto", "grid"),
    *("nevergrad:DE", "nevergrad:PSO"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, few candidates")
    parser.add_argument("--worlds", nargs="+", choices=list(SPACES), default=list(EMBEDDED))
    parser.add_argument("--optimizers", nargs="+", choices=KNOWN, default=OPTIMIZERS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--candidates", type=int, default=300, help="of a search")
    parser.add_argument("--after", nargs="+", type=int, default=CHECKPOINTS, help="test winners")
    parser.add_argument("--records", type=Path, default=ROOT / "runs" / "optimizers")
    parser.add_argument("--picture", type=Path, help="SVG of the scores over candidates")
    parser.add_argument("--documents", nargs="+", type=int, default=[None], help="of a candidate")
    parser.add_argument("--fresh", action="store_true", help="new documents for each generation")
    parser.add_argument("--pool", type=int, default=200, help="documents that samples come from")
    parser.add_argument("--every", type=int, default=5, help="generations to a believed genome")
    parser.add_argument("--grow", type=int, nargs="?", const=2, default=0, help="the sample grows")
    parser.add_argument("--population", type=int, help="genomes of a generation")
    options = parser.parse_args()
    if options.fresh and (set(options.optimizers) - set(FRESH) or None in options.documents):
        parser.error(f"--fresh is for {', '.join(FRESH)}, with --documents")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    first = options.first_seed
    seeds = range(first, first + (2 if options.quick else options.seeds))
    candidates = 60 if options.quick else options.candidates
    records = Records(options.records)
    fresh = {"pool": options.pool, "every": options.every, "patience": options.grow}
    plans = [
        Plan(
            name,
            documents,
            fresh=options.fresh,
            population=options.population,
            **(fresh if options.fresh else {}),
        )
        for documents in options.documents
        for name in options.optimizers
    ]
    for seed in seeds:
        for world in options.worlds:
            run_missing(records, world, plans, seed, candidates, options.after)
    found: dict[str, float] = {}
    drawn: dict[str, list[Record]] = {}
    for world in options.worlds:
        known = [one for one in records.read(world, candidates) if one.seed in seeds]
        drawn[world] = real = [one for one in known if one.plan in plans]
        show(f"{world} genes: score of the winner on test documents", real)
        show_costs(f"{world} genes: what the searches cost", real)
        found |= differences(world, real)
    if options.picture:
        from choosing.picture import draw

        draw(drawn, options.picture)
    print(json.dumps(found))


def run_missing(
    records: Records,
    world_name: str,
    plans: Sequence[Plan],
    seed: int,
    candidates: int,
    after: Sequence[int],
) -> None:
    """Run the real searches that are not recorded yet, and test their winners after so many."""
    for plan in plans:
        if records.has(world_name, plan, seed, candidates):
            continue
        documents = plan.pool if plan.fresh else plan.documents
        with make_world(world_name, seed, documents) as world:
            warm_up(world, plan)
            found = run(world, plan, candidates, seed)
            count = sum(map(len, world.evaluator.splits["validation"].values()))
            validation = Validation(
                lambda genome, of=world: of.fitness(genome, "validation"), count
            )
            winners, tests, costs = {}, {}, dict[int, Cost]()
            for count in [n for n in after if n < candidates] + [candidates]:
                best, valid, costs[count] = validation.winner(found, count)
                tests[count] = world.scores(found.genomes[best], "test") or (0.0,)
                winners[count] = (valid or 0.0, fmean(tests[count]))
            records.add(Record(world_name, plan, seed, found, winners, tests, costs), candidates)
            print(
                f"{world_name:12} {plan.label:20} seed {seed}: "
                f"{100 * winners[candidates][1]:5.1f}; CPU seconds: candidates "
                f"{found.scoring:.0f}, optimizer {found.seconds:.1f}",
                flush=True,
            )


def warm_up(world: World, plan: Plan) -> None:
    """Score and propose something, so that no search pays for what happens once in a process."""
    first = next(genomes[0] for genomes in world.space.baseline_genomes().values() if genomes)
    world.scores(first, "search")
    world.known.clear()
    if not plan.optimizer.startswith("gradient"):
        optimizer = create(plan.optimizer, world.space.genes, 0, plan.population)
        # The model of `gp` comes after some candidates.
        for number in range(max(20, 2 * optimizer.population)):
            optimizer.tell(optimizer.ask(), [number])


def run(world: World, plan: Plan, candidates: int, seed: int) -> Search:
    """Search once."""
    if plan.fresh:
        return search_fresh(world, plan, candidates, seed)
    return search(
        plan.optimizer,
        world.space,
        lambda genome: world.fitness(genome, "search"),
        candidates,
        seed,
        world.make,
        world.evaluator.splits["search"],
        plan.population,
    )


if __name__ == "__main__":
    main()
