"""Warnings of searches that can run but have little hope, or are very slow."""

from __future__ import annotations

import math
from collections.abc import Iterator

from evomerge.evaluation.inference.device import choose_device, count_cores
from evomerge.models.encoder_decoder import is_encoder_decoder
from evomerge.report.words import listed
from evomerge.scores import NLL, TOKENS, TOLD
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.strategy import generation_of, has_slope

_WIDEST = 10  # points that a score may be off, to either side
_ENOUGH = 100  # documents, with which it is less
_CMA = ("cma", "diagonal-cma", "cma-margin")
_FOR_A_GENE = 8  # candidates, the fewest for each gene in most of our results (docs/concepts.md)
_FOR_A_DOCUMENT = 64  # tokens, a short one
_A_SECOND = 5e10  # operations of one core, at best
_SLOW = 120  # seconds of a candidate


def prospect_warnings(checked: CheckedSearch) -> Iterator[str]:
    """Yield what makes a search hopeless or very slow, one sentence each with figure and fix."""
    yield from _document_warnings(checked)
    yield from _candidate_warnings(checked)
    yield from _time_warnings(checked)


def _document_warnings(checked: CheckedSearch) -> Iterator[str]:
    known = checked.evaluator.info
    warned = set[str]()
    for item in checked.objectives:
        if item.is_exact or item.task in (TOLD, *warned) or item.metric in (NLL, TOKENS):
            continue
        if not (item.task in known.groups or known.metric(item.task, item.metric)[1].is_mean):
            continue  # a correlation has no right answers
        few, there = [], dict[str, int]()
        for split, documents in checked.splits.items():
            info = checked.evaluator.tasks_of(split).info
            leaves = dict.fromkeys(info.leaves(item.task))
            there |= {info.tasks[task].source: info.tasks[task].documents for task in leaves}
            count = sum(len(documents[task]) for task in leaves)
            if round(_points(count)) > _WIDEST:
                few.append(f"±{_points(count):.0f} points on {count} {split} documents")
        if few:
            warned.add(item.task)
            total = sum(there.values())
            share = max(1, min(_ENOUGH, total // 3))
            more = "" if share == _ENOUGH else f"; add some: {_ENOUGH} in each give ±{_WIDEST}"
            yield (
                f"a score of {item.task!r} is known to {listed(few)} (95 % interval of 50 % right "
                f"answers); the task has {total}, enough for {share} in each split "
                f"(±{_points(share):.0f}){more}."
            )


def _points(documents: int) -> float:
    """Return half the width of the 95 % interval of 50 % right answers, in points."""
    return 100 * 1.96 * math.sqrt(0.25 / documents)


def _candidate_warnings(checked: CheckedSearch) -> Iterator[str]:
    config, genes = checked.config, len(checked.space.genes)
    candidates, baselines = config.budget.candidates, len(checked.space.baselines())
    if candidates is None:
        return
    searched, descends = candidates - baselines, config.optimizer.descends
    if searched <= 0 or (searched < baselines and not descends):
        left = "nothing is" if searched <= 0 else f"only {searched} are"
        enough = baselines + 1 if searched <= 0 else 4 * baselines
        yield (
            f"budget.candidates is {candidates}, but the {baselines} baselines (parents and "
            f"averages of them) count among them, so {left} searched; set it to {enough} or more."
        )
    if 0 < searched < genes and config.optimizer.name in _CMA:
        population = generation_of(config, checked.space)
        has_answers = checked.evaluator.default.harness is not None
        can_learn = has_answers and not is_encoder_decoder(checked.checkpoints[checked.host])
        suits = can_learn and has_slope(checked.space, config)
        yield (
            f"optimizer.name is {config.optimizer.name!r}, but {searched} candidates for {genes} "
            f"genes are {searched / population:.1f} of its generations of {population}, from which "
            f"it learns little; set budget.candidates to {baselines + _FOR_A_GENE * genes} or so, "
            "or have fewer genes (a smaller `space.groups`, no `space.components`)"
            f"{', or take `optimizer.name: gradient`' if suits else ''}."
        )


def _time_warnings(checked: CheckedSearch) -> Iterator[str]:
    config, host = checked.config, checked.checkpoints[checked.host]
    if config.executor.kind == "ray" or choose_device(config.evaluation.device) != "cpu":
        return
    if config.dtype == "float16":
        yield (
            "dtype is float16, which most CPUs compute several times as slowly as float32; set it "
            "to float32 (`evomerge export --dtype float16` writes the winner in float16)."
        )
    documents, cores = sum(map(len, checked.splits["search"].values())), count_cores()
    operations = 2 * host.parameters * _FOR_A_DOCUMENT * documents
    if (seconds := operations / (_A_SECOND * cores)) > _SLOW:
        yield (
            f"there is no accelerator, so a candidate ({host.parameters / 1e9:.2g} billion weights "
            f"on {documents} search documents) may well take {seconds / 60:.0f} minutes on {cores} "
            "CPU cores; measure it with `evomerge validate --time`, use a GPU, or take fewer "
            "search documents or smaller parents."
        )
