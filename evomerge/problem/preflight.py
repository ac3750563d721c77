"""What a person is told before a search begins: its size, its documents, its genes, warnings."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from evomerge.config.optimizer import with_fewer_candidates
from evomerge.errors import listed
from evomerge.models.correspondence import type_notes
from evomerge.models.files import code_notes
from evomerge.models.part import Parents
from evomerge.models.parts import kind_of, part_facts, part_notes
from evomerge.problem.memory import fit_warnings, memory_rows, weights_of
from evomerge.problem.parents import plan_tokenizers
from evomerge.problem.parents_as_themselves import parent_notes, prompt_template
from evomerge.problem.problem import Problem
from evomerge.problem.tasks import task_facts
from evomerge.scores import NLL, TOKENS, TOLD
from evomerge.space.protocol import Gene
from evomerge.words import renamed, short_names, size_text

_WIDEST = 10  # points that a score may be off, to either side
_ENOUGH = 100  # documents, with which it is less

_FEWER = (
    "need a tenth of the candidates (`optimizer: {{name: {0}}}`), since what these tasks call "
    "right is the whole reference answer"
)

HEADERS = ("searched", "genes", "values", "start", "set by")

_PLACE = re.compile(r"(?<=\[)\d+(?=\])|(?<=slice)\d+|(?<=block)\d+")


def summary(problem: Problem) -> dict[str, Any]:
    """Return what `evomerge validate` prints: parents, dimension, documents, memory, disk space."""
    config, space = problem.config, problem.space
    host, parents = problem.checkpoints[problem.host], problem.checkpoints.items()
    other = with_fewer_candidates(problem)
    facts = task_facts(config, problem.evaluator)
    values = {
        "parents": {name: size_text(item.nbytes) for name, item in parents},
        "kinds": {name: kind_of(item) for name, item in parents},
        "host": problem.host,
        "architecture": (host.config.get("architectures") or ["unknown"])[0],
        "layers": len(host.decoder_stack),
        **part_facts(_parents(problem)),
        "space": config.space.kind,
        "dimension": len(space.genes),
        "optimizer": config.optimizer.name,
        "gradients": _FEWER.format(other.config.optimizer.name) if other else None,
        "population": config.optimizer.generation(config, space),
        "candidates": config.budget.candidates,
        "start": len(problem.start) or None,
        "documents": {split: sum(map(len, of.values())) for split, of in problem.splits.items()},
        "sources": {split: [*dict.fromkeys(of.values())] for split, of in facts["sources"].items()},
        "workers": config.executor.count_workers(config.evaluation).text,
        "backend": config.evaluation.backend,
        "compute": f"float32, weights in {config.dtype}"
        if config.compute != config.dtype
        else None,
        **problem.evaluator.words(problem.merges),
        "fewer_documents": problem.fewer_documents,
        "objectives": [
            f"{o.key} ({'' if config.mode == 'pareto' else f'weight {o.weight:g}, '}"
            f"{'higher' if o.higher_is_better else 'lower'} is better"
            f"{'' if o.tie_breaker is None else f'; ties by the lower {o.tie_breaker}'})"
            for o in problem.objectives
        ],
        "constraints": [item.text for item in problem.constraints] or None,
        **memory_rows(problem),
        "export": size_text(weights_of(problem, config.dtype)),
    }
    # A search without a largest number of candidates says so.
    return {name: item for name, item in values.items() if item is not None or name == "candidates"}


def warnings(problem: Problem, allow_benchmarks: bool) -> list[str]:
    """Return warnings that a person should read before the search starts.

    Args:
        allow_benchmarks: do not warn of objectives that are well-known public benchmarks.
    """
    checkpoints, host = problem.checkpoints, problem.checkpoints[problem.host]
    recipes = problem.space.baselines().values()
    objectives, every = problem.evaluator.tasks_of("search").objectives, problem.evaluator.every
    tokenizers = plan_tokenizers(problem.config, recipes, checkpoints)
    count = problem.config.executor.count_workers(problem.config.evaluation).count
    parents = [host, *(item for name, item in checkpoints.items() if name != problem.host)]
    return [
        *dict.fromkeys(note for plan in tokenizers for note in plan.notes),
        *type_notes(parents),
        *parent_notes(problem),
        *code_notes(problem.host, [host.folder / "config.json", *host.companions]),
        *part_notes(_parents(problem)),
        *fit_warnings(problem),
        *_template_warnings(problem),
        *document_warnings(problem),
        *problem.config.optimizer.warnings(problem, count),
        *dict.fromkeys(text for item in every for text in item.warnings(problem.merges)),
        *(text for item in objectives if not allow_benchmarks for text in item.benchmarks()),
    ]


def _parents(problem: Problem) -> Parents:
    """Return the parents, and the parts that candidates merge, with the parents of each."""
    recipes, owners = list(problem.space.baselines().values()), dict[str, dict[str, None]]()
    for recipe in recipes:
        for part, layer in recipe.modalities.items():
            owners.setdefault(part, {}).update(dict.fromkeys(s.parent for s in layer.inputs))
    return Parents(
        problem.checkpoints,
        problem.host,
        short_names(problem.checkpoints),
        merged={part: list(parents) for part, parents in owners.items()},
        stacks=len(recipes[0].layers),
        is_path=problem.config.space.is_path,
    )


def _template_warnings(problem: Problem) -> Iterator[str]:
    config = problem.config
    is_said = "chat_template" in config.evaluation.model_fields_set
    if not is_said and prompt_template(problem) is not None:
        tried = " (`evomerge validate --time` tries both)" if config.mode == "weighted" else ""
        yield (
            f"{short_names(problem.checkpoints)[problem.tokenizer_giver]} has a chat template, but "
            "prompts are made without it; set `evaluation.chat_template` to true for models that "
            f"were tuned for chat, else to false{tried}."
        )


def document_warnings(problem: Problem) -> Iterator[str]:
    """Yield how far a score may be off where a split has few documents."""
    every = problem.evaluator.info
    warned = set[str]()
    for item in problem.objectives:
        if item.is_exact or item.task in (TOLD, *warned) or item.metric in (NLL, TOKENS):
            continue
        if not (item.task in every.groups or every.metric(item.task, item.metric)[1].is_mean):
            continue  # a correlation has no right answers
        few = []
        for split, documents in problem.splits.items():
            leaves = dict.fromkeys(problem.evaluator.tasks_of(split).info.leaves(item.task))
            count = sum(len(documents[task]) for task in leaves)
            if round(_points(count)) > _WIDEST:
                few.append(f"±{_points(count):.0f} points on {count} {split} documents")
        if few:
            warned.add(item.task)
            yield (
                f"a score of {item.task!r} is known to {listed(few)} (95 % interval of 50 % right "
                f"answers); take {_ENOUGH} documents or more in each split, which give ±{_WIDEST}."
            )


def _points(documents: int) -> float:
    """Return half the width of the 95 % interval of 50 % right answers, in points."""
    return 100 * 1.96 * math.sqrt(0.25 / documents)


def shown_genes(problem: Problem) -> list[Gene]:
    """Return the genes, in the order of the genome, with the names of parents that people read."""
    names = short_names(problem.checkpoints)
    return [
        replace(
            gene,
            name=renamed(gene.name, names),
            choices=tuple(names.get(choice, choice) for choice in gene.choices),
        )
        for gene in problem.space.genes
    ]


def gene_list(problem: Problem) -> list[dict[str, Any]]:
    """Return all genes with range and start, as plain JSON values, in the order of the genome.

    A choice has no start: all its values are equally likely at first.
    """
    keys = ("name", "kind", "low", "high")
    return [
        {key: getattr(gene, key) for key in keys}
        | {"start": None if gene.kind == "choice" else gene.start}
        | ({"choices": list(gene.choices)} if gene.choices else {})
        for gene in shown_genes(problem)
    ]


def gene_rows(problem: Problem) -> list[tuple[str, ...]]:
    """Return a row for each group of genes that differ only in their place; see `HEADERS`.

    The last cell names what in the search file makes a knob vary. A knob that `space.knobs` does
    not name is searched in its method's own range.
    """

    reasons = problem.config.space.reasons
    groups = Counter[tuple[str, str, str]]()
    for gene in shown_genes(problem):
        last = gene.name.rpartition(".")[2]
        start = "undecided" if gene.kind == "choice" else f"{gene.start:.4g}"
        groups[last if last in reasons else _PLACE.sub("N", gene.name), _values(gene), start] += 1
    return [
        (name, str(count), values, start, reasons.get(name, "space"))
        for (name, values, start), count in groups.items()
    ]


def _values(gene: Gene) -> str:
    if gene.kind == "binary":
        return "0 or 1"
    if gene.kind == "choice":
        return ", ".join(gene.choices) if len(gene.choices) < 4 else f"{len(gene.choices)} choices"
    return f"{'whole, ' if gene.kind == 'integer' else ''}{gene.low:.4g} to {gene.high:.4g}"
