"""What a person is told before a search begins: its size, its documents, warnings."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.models.code_keys import code_notes
from evomerge.models.correspondence import prediction_notes, type_notes
from evomerge.optimize import builtin, own_seconds
from evomerge.report.words import sampling_note, setting_lines, short_names, size_text
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.engine import engine_depth, engine_warning, serves_paths
from evomerge.setup.estimate import costly_warning
from evomerge.setup.executor import count_all_workers, describe_workers
from evomerge.setup.generation import generation_note
from evomerge.setup.memory import memory_of, needs, weights_of
from evomerge.setup.parents import plan_tokenizers
from evomerge.setup.parents_as_themselves import lent_notes
from evomerge.setup.recipes import count_baselines
from evomerge.setup.strategy import generation_of
from evomerge.setup.tasks import sampled, sources

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TaskInfo

OWN_MINUTES = 5
"""Minutes of CPU time of the optimizer itself, above which a person is warned."""

_KNOWN = re.compile(
    r"^(mmlu|gsm8k|gsm_plus|mgsm|hellaswag|arc_(easy|challenge)|winogrande|truthfulqa|bbh|gpqa|"
    r"ifeval|humaneval|mbpp|piqa|boolq|openbookqa|lambada|triviaqa|nq_open|squad|drop|race|"
    r"hendrycks|minerva_math|math_|musr|leaderboard|agieval|cmmlu|ceval|jmmlu|xnli|xcopa|belebele|"
    r"wikitext|super_?glue|glue|anli|commonsense_qa|social_iqa|sciq|logiqa|toxigen|aime)"
)


def summary(checked: CheckedSearch) -> dict[str, Any]:
    """Return what `evomerge validate` prints: parents, dimension, documents, memory, disk space."""
    config = checked.config
    host = checked.checkpoints[checked.host]
    population = generation_of(config, checked.space)
    note = sampling_note(sampled(config, checked.evaluator))
    return {
        "parents": {name: size_text(item.nbytes) for name, item in checked.checkpoints.items()},
        **({"merges": _merges(checked)} if checked.merges else {}),
        "host": checked.host,
        "architecture": (host.config.get("architectures") or ["unknown"])[0],
        "layers": len(host.main),
        "space": config.space.kind,
        "dimension": len(checked.space.genes),
        "population": population,
        "candidates": config.budget.candidates,
        **({"start": len(checked.start)} if checked.start else {}),
        "documents": {
            split: sum(len(ids) for ids in documents.values())
            for split, documents in checked.splits.items()
        },
        "sources": {
            split: list(dict.fromkeys(of_split.values()))
            for split, of_split in sources(config, checked.evaluator).items()
        },
        "workers": describe_workers(config, population),
        "backend": _backend(checked),
        **({"code": _code(checked)} if checked.evaluator.code_tasks else {}),
        **({"engine": engine_depth(checked)} if serves_paths(config) else {}),
        **({"sampling": note} if note is not None else {}),
        "fewer_documents": checked.fewer_documents,
        "objectives": [
            f"{o.key} ({'' if config.mode == 'pareto' else f'weight {o.weight:g}, '}"
            f"{'higher' if o.higher_is_better else 'lower'} is better)"
            for o in checked.objectives
        ],
        **({"constraints": [c.text for c in checked.constraints]} if checked.constraints else {}),
        "needs": needs(checked),
        "memory": {name: size_text(size) for name, size in memory_of(checked).items()},
        "export": size_text(weights_of(checked)),
    }


def warnings(checked: CheckedSearch, allow_benchmarks: bool) -> list[str]:
    """Return warnings that a person should read before the search starts.

    Args:
        checked: a checked search.
        allow_benchmarks: do not warn of objectives that are well-known public benchmarks.
    """
    recipes = checked.space.baselines().values()
    tokenizers = plan_tokenizers(checked.config, recipes, checked.checkpoints)
    notes = list(dict.fromkeys(note for plan in tokenizers for note in plan.notes))
    others = [item for name, item in checked.checkpoints.items() if name != checked.host]
    notes += (note for merge in checked.merges.values() for note in merge.notes)
    host = checked.checkpoints[checked.host]
    notes += type_notes([host, *others])
    names = short_names(checked.checkpoints)
    notes += [*setting_lines(checked.settings, names), *lent_notes(checked, names)]
    notes += code_notes(checked.host, [host.folder / "config.json", *host.companions])
    notes += prediction_notes(n for n, item in checked.checkpoints.items() if item.predictions)
    if checked.config.evaluation.backend == "vllm" and not _tasks_by_answer(checked)[0]:
        notes.append(
            "evaluation.backend is 'vllm', but no task generates text, and log-likelihoods take "
            "less time with transformers; use the backend 'hf'."
        )
    budget = checked.config.budget.candidates
    baselines = count_baselines(checked.config, checked.space)
    if budget is not None and budget <= baselines:
        notes.append(
            f"budget.candidates is {budget}, but the {baselines} baselines (parents and averages "
            f"of them) count among them, so nothing is searched; set it to {baselines + 1} or more."
        )
    if serves_paths(checked.config) and (note := engine_warning(checked)) is not None:
        notes.append(note)
    found = (
        _lag_warning(checked.config),
        _cost_warning(checked),
        costly_warning(checked),
        generation_note(checked.config, host, tokenizers[0], checked.evaluator),
    )
    notes += filter(None, (*found, _code_warning(checked)))
    info = checked.evaluator.tasks_of("search").info
    kinds = (repeats_warning,) if allow_benchmarks else (repeats_warning, benchmark_warning)
    tasks = [info.tasks[task] for task in _leaves(checked)]
    return notes + list(filter(None, (kind(task) for kind in kinds for task in tasks)))


def _merges(checked: CheckedSearch) -> dict[str, str]:
    """Return what each parent that is a merge will be built from."""
    return {
        name: f"{', '.join(item.methods)} of {', '.join(item.names)}; built when the search starts"
        for name, item in checked.merges.items()
    }


def _code(checked: CheckedSearch) -> str:
    """Return how code that models write runs on this machine."""
    from evomerge.evaluation.tasks.code import has_bubblewrap

    return f"runs in processes with limits{', in bubblewrap' if has_bubblewrap() else ''}"


def _code_warning(checked: CheckedSearch) -> str | None:
    """Return a warning if code that models write can do here what you can."""
    from evomerge.evaluation.tasks.code import has_bubblewrap

    tasks = checked.evaluator.code_tasks
    if not tasks or has_bubblewrap():
        return None
    return (
        f"code that models write for {', '.join(tasks)} can read and change your files and use the "
        "network, since only its time and memory are limited (docs/evaluation.md); run the search "
        "in a container that holds nothing else, or install bubblewrap."
    )


def _lag_warning(config: SearchConfig) -> str | None:
    """Return a warning if the optimizer finds less with so many candidates that are not scored."""
    executor, optimizer = config.executor, builtin(config.optimizer.name)
    if executor.order != "arrival" or executor.kind == "inline" or optimizer is None:
        return None
    count = count_all_workers(config)
    most = optimizer.most_workers
    if most is None or count <= most:
        return None
    instead = (
        "set `executor.order` to generation, or raise `budget.candidates`"
        if optimizer.has_population
        else "set `optimizer.name` to 'cma'"
    )
    return (
        f"executor.order is 'arrival', so with {count} workers {config.optimizer.name!r} proposes "
        f"candidates before it knows the scores of {count - 1} others, and with more than {most} "
        f"it finds less with as many candidates (docs/scaling.md); use fewer workers, or {instead}."
    )


def _cost_warning(checked: CheckedSearch) -> str | None:
    """Return a warning if the optimizer itself takes more than `OWN_MINUTES`."""
    config, genes = checked.config, len(checked.space.genes)
    name, candidates = config.optimizer.name, config.budget.candidates or 1000
    minutes = own_seconds(name, genes, candidates) / 60
    if minutes <= OWN_MINUTES:
        return None
    instead = "nsga2" if config.mode == "pareto" else "diagonal-cma"
    return (
        f"optimizer.name is {name!r}, which itself takes about {minutes:.0f} minutes of CPU time "
        f"for {candidates} candidates of {genes} genes, and as long again whenever the search is "
        f"resumed (docs/optimizers.md); set it to {instead!r}, or search fewer genes."
    )


def _leaves(checked: CheckedSearch) -> list[str]:
    """Return the names of the objectives' tasks, with the tasks of groups instead of groups."""
    info = checked.evaluator.tasks_of("search").info
    return sorted({task for name in checked.config.tasks for task in info.leaves(name)})


def _tasks_by_answer(checked: CheckedSearch) -> tuple[list[str], list[str]]:
    """Return the tasks that generate text, and those that compare log-likelihoods."""
    tasks = checked.evaluator.tasks_of("search").info.tasks
    leaves = [name for name in _leaves(checked) if tasks[name].kind != "function"]
    texts = [name for name in leaves if tasks[name].kind == "generate_until"]
    return texts, [name for name in leaves if name not in texts]


def _backend(checked: CheckedSearch) -> str:
    """Return what runs the models for which tasks, and whether another backend may be cheaper."""
    texts, likelihoods = _tasks_by_answer(checked)
    if checked.config.evaluation.backend == "hf":
        longer = "; vllm may take less time for texts of many tokens (docs/evaluation.md)"
        return "hf" + (longer if texts and checked.config.space.kind == "parameters" else "")
    parts = [
        f"{backend} for {what} ({', '.join(tasks)})"
        for backend, what, tasks in (
            ("vllm", "texts", texts),
            ("hf", "log-likelihoods", likelihoods),
        )
        if tasks
    ]
    return ", ".join(parts) or "vllm"


def benchmark_warning(task: TaskInfo) -> str | None:
    """Return a warning if a search would optimize on a public benchmark's own test documents."""
    split = task.task_splits.get(task.task_split, task.task_split).lower()
    if not _KNOWN.match(task.name.lower()) or not split.startswith(("test", "val")):
        return None
    own = "a task of your own in evaluation.include (a translation of it, or your own questions)"
    if "training" in task.task_splits:
        own = f"its training documents (evaluation.search.task_split: training), or {own}"
    return (
        f"the search optimizes on the {split} documents of the public benchmark {task.name!r}, so "
        "its score on that benchmark will say nothing about other models' scores on it; search on "
        f"{own}, and keep the benchmark for the test (--allow-benchmarks silences this)."
    )


def repeats_warning(task: TaskInfo) -> str | None:
    """Return a warning if a task's `repeats` are of no use."""
    if task.repeats == 1 or task.kind != "generate_until":
        return None
    if not task.is_sampled:
        return (
            f"task {task.name!r} has repeats: {task.repeats}, but decodes greedily, so all "
            f"{task.repeats} texts of a document are equal (evomerge generates one); sample them "
            "(evaluation.generation: {do_sample: true, temperature: 0.6}), or set repeats to 1 in "
            "its YAML."
        )
    if not task.has_filters:
        return (
            f"task {task.name!r} samples {task.repeats} texts for each document, but has no "
            "filter_list, so lm-eval only reads the first of them; add filters that read all, such "
            "as majority_vote, or set repeats to 1 in its YAML."
        )
    return None
