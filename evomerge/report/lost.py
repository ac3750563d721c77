"""Documents on which the winner scores worse than a parent."""

from dataclasses import dataclass

from evomerge.report.view import View
from evomerge.run.ranking import measured
from evomerge.scores import Scores
from evomerge.space.baselines import UNIFORM
from evomerge.words import short_names

_MOST = 10
"""Documents of a metric that are listed."""


@dataclass(frozen=True)
class Lost:
    """What the winner loses in one metric.

    Attributes:
        metric: `task/metric`.
        names: the winner, and the parents that were scored on the same documents.
        count: how many documents have a parent that scores better than the winner.
        scored: how many documents were scored.
        rows: document id, the values in the order of `names`, and its prompt ("" if the run does
            not have it), of the documents with the largest loss.
    """

    metric: str
    names: list[str]
    count: int
    scored: int
    rows: list[tuple[int, list[float], str]]


def lost_documents(view: View) -> list[Lost]:
    """Return what the winner loses on the test documents, for each metric where it does.

    Nothing is lost to the uniform merge, and nothing before the winner has test scores.
    """
    winner = view.history.winner
    ours = winner.scores("test") if winner else None
    if winner is None or ours is None:
        return []
    parents = [one for one in view.history.baselines if one is not winner and one.label != UNIFORM]
    lost = []
    for objective in measured(view.ranking):
        theirs = {}
        for parent in parents:
            scores = parent.scores("test")
            if scores and _ids(scores, objective.task) == _ids(ours, objective.task):
                theirs[parent.name] = scores.values.get(objective.key, ())
        sign = 1 if objective.higher_is_better else -1
        documents = zip(
            _ids(ours, objective.task),
            zip(ours.values.get(objective.key, ()), *theirs.values(), strict=False),
            strict=False,
        )
        losses = {
            document: (max(sign * (other - value) for other in others), [value, *others])
            for document, (value, *others) in documents
            if any(sign * (other - value) > 0 for other in others)
        }
        worst = sorted(losses.items(), key=lambda pair: -pair[1][0])[:_MOST]
        prompts = {e.document: e.prompt for e in ours.examples if e.task == objective.task}
        rows = [(document, values, prompts.get(document, "")) for document, (_, values) in worst]
        names = ["searched" if winner.label is None else "winner", *short_names(theirs).values()]
        scored = len(_ids(ours, objective.task))
        lost += [Lost(objective.key, names, len(losses), scored, rows)] if losses else []
    return lost


def _ids(scores: Scores, task: str) -> tuple[int, ...]:
    return scores.documents.get(task, ())
