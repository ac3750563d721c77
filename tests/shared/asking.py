"""Evaluators of lm-eval's tasks alone, and the requests that they ask models."""

from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.reference import Reasoning
from evomerge.evaluation.tasks.lm_eval import LmEval, Runner


def asking(harness, batch_size="auto", backend="hf", reasoning=None, **options):
    runner = Runner(batch_size=batch_size, backend=backend, reasoning=reasoning or Reasoning())
    return Evaluator([LmEval(harness, runner, **options)])


def lm_eval_of(evaluator):
    return next(item for item in evaluator.every if isinstance(item, LmEval))


def runner_of(evaluator):
    return lm_eval_of(evaluator).runner


def requests_of(evaluator, task, split="search"):
    objective = evaluator.tasks_of(split).of(task)
    return {i: objective.requests(task, i) for i in sorted(evaluator.splits[split][task])}
