"""An objective function: the main scores of merged sentence encoders on tasks of MTEB.

    ENCODER=./encoder-a PYTHONPATH=examples \\
        evomerge search search.yaml --run runs/mteb --trust-code

with `objectives: [{task: "mteb_tasks:main_score", metric: score}]` in the search file. Each task is
a document. The merged transformer gets pooling, projections and prompts of ENCODER, the host.
It needs `pip install 'mteb>=2' sentence-transformers`.
"""

import os

import mteb
from sentence_transformers import SentenceTransformer

TASKS = ["STS12", "STS13", "STS14", "STS15", "STS16", "STSBenchmark"]


def main_score(model, tokenizer, documents):
    """Return the main score of each task, whose document is its place in TASKS."""
    encoder = SentenceTransformer(os.environ["ENCODER"], device=str(model.device))
    encoder[0].model = model
    tasks = [mteb.get_task(TASKS[number]) for number in documents]
    results = mteb.evaluate(encoder, tasks, cache=None, show_progress_bar=False).task_results
    scores = {result.task_name: result.get_score() for result in results}
    return [scores[TASKS[number]] for number in documents]


main_score.documents = len(TASKS)
