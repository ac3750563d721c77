"""What a person is told before a search begins: its size, its documents, warnings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from evomerge.models.code_keys import code_notes
from evomerge.models.correspondence import prediction_notes, type_notes
from evomerge.models.encoder_decoder import is_encoder_decoder, merged_stacks
from evomerge.models.kinds import kind_of
from evomerge.optimize import builtin
from evomerge.report.words import sampling_note, short_names, size_text
from evomerge.scores import NLL
from evomerge.setup.check import slow_setting
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.classifiers import classifier_in_words, head_notes, padding_notes
from evomerge.setup.descents import slope_note
from evomerge.setup.encoders import encoder_in_words, module_notes
from evomerge.setup.memory import fit_warnings, memory_rows, weights_of
from evomerge.setup.modalities import modality_notes, modality_rows
from evomerge.setup.parents import plan_tokenizers
from evomerge.setup.parents_as_themselves import lent_notes
from evomerge.setup.prospects import prospect_warnings
from evomerge.setup.settings import setting_notes
from evomerge.setup.strategy import generation_of
from evomerge.setup.task_digests import sampled, sources
from evomerge.setup.tasks import leaves_of
from evomerge.setup.worker import serves_paths
from evomerge.setup.workers import describe_workers, workers_of

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TaskInfo
    from evomerge.merging.tokenizers.plan import TokenizerPlan

_KNOWN = re.compile(
    r"^(mmlu|gsm8k|gsm_plus|mgsm|hellaswag|arc_(easy|challenge)|winogrande|truthfulqa|bbh|gpqa|"
    r"ifeval|humaneval|mbpp|piqa|boolq|openbookqa|lambada|triviaqa|nq_open|squad|drop|race|"
    r"hendrycks|minerva_math|math_|musr|leaderboard|agieval|cmmlu|ceval|jmmlu|xnli|xcopa|belebele|"
    r"wikitext|super_?glue|glue|anli|commonsense_qa|social_iqa|sciq|logiqa|toxigen|aime)"
)


def summary(checked: CheckedSearch) -> dict[str, Any]:
    """Return what `evomerge validate` prints: parents, dimension, documents, memory, disk space."""
    from evomerge.evaluation.tasks.code import has_bubblewrap

    config, space = checked.config, checked.space
    host = checked.checkpoints[checked.host]
    population = generation_of(config, space)
    code = engine = None
    if checked.evaluator.code_tasks:
        code = f"runs in processes with limits{', in bubblewrap' if has_bubblewrap() else ''}"
    if serves_paths(config):
        depth, own = space.max_depth, len(host.decoder_stack)
        time = f"a text takes the time of {depth} for every path"
        engine = f"{depth} layers; {time} (the host has {own}, so {depth / own:.2g} times its time)"
    values = {
        "parents": {name: size_text(item.nbytes) for name, item in checked.checkpoints.items()},
        "kinds": {name: kind_of(item) for name, item in checked.checkpoints.items()},
        "host": checked.host,
        "architecture": (host.config.get("architectures") or ["unknown"])[0],
        "layers": len(host.decoder_stack),
        "encoder_decoder": _stacks_in_words(checked),
        **modality_rows(checked),
        "encoder": encoder_in_words(host, checked.checkpoints.values()),
        "classifier": classifier_in_words(host, checked.checkpoints.values()),
        "space": config.space.kind,
        "dimension": len(space.genes),
        "population": population,
        "candidates": config.budget.candidates,
        "start": len(checked.start) or None,
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
        "code": code,
        "engine": engine,
        "sampling": sampling_note(sampled(config, checked.evaluator)),
        "fewer_documents": checked.fewer_documents,
        "objectives": [
            f"{o.key} ({'' if config.mode == 'pareto' else f'weight {o.weight:g}, '}"
            f"{'higher' if o.higher_is_better else 'lower'} is better"
            f"{'' if o.tie_breaker is None else f'; ties by the lower {o.tie_breaker}'})"
            for o in checked.objectives
        ],
        "constraints": [item.text for item in checked.constraints] or None,
        **memory_rows(checked),
        "slopes": slope_note(config, space.genes),
        "export": size_text(weights_of(checked)),
    }
    # A search without a largest number of candidates says so.
    return {name: item for name, item in values.items() if item is not None or name == "candidates"}


def warnings(checked: CheckedSearch, allow_benchmarks: bool) -> list[str]:
    """Return warnings that a person should read before the search starts.

    Args:
        allow_benchmarks: do not warn of objectives that are well-known public benchmarks.
    """
    checkpoints, host = checked.checkpoints, checked.checkpoints[checked.host]
    recipes = checked.space.baselines().values()
    tokenizers = plan_tokenizers(checked.config, recipes, checkpoints)
    others = [item for name, item in checkpoints.items() if name != checked.host]
    names = short_names(checkpoints)
    info = checked.evaluator.tasks_of("search").info
    kinds = (repeats_warning,) if allow_benchmarks else (repeats_warning, benchmark_warning)
    tasks = [info.tasks[task] for task in sorted(leaves_of(checked.config, info))]
    return [
        *dict.fromkeys(note for plan in tokenizers for note in plan.notes),
        *type_notes([host, *others]),
        *setting_notes(checked, names),
        *lent_notes(checked, names),
        *module_notes([host, *others], names),
        *head_notes([host, *others], names),
        *padding_notes(host, checked.evaluator),
        *code_notes(checked.host, [host.folder / "config.json", *host.companions]),
        *modality_notes(checked),
        *prediction_notes(name for name, item in checkpoints.items() if item.predictions),
        *fit_warnings(checked),
        *([checked.left_out] if checked.left_out else []),
        *prospect_warnings(checked),
        *_own_warnings(checked, tokenizers[0]),
        *filter(None, (kind(task) for kind in kinds for task in tasks)),
    ]


def _stacks_in_words(checked: CheckedSearch) -> str | None:
    """Return what becomes of the layers of an encoder-decoder; None: the merges are none."""
    host = checked.checkpoints[checked.host]
    if not is_encoder_decoder(host) or len(stacks := merged_stacks(host)) < 2:
        return None
    *_, encoder, decoder = map(len, stacks.values())
    is_path = len(next(iter(checked.space.baselines().values())).layers) == 1
    fate = "those of the encoder are the host's" if is_path else "all are merged"
    return f"{encoder} layers of the encoder, {decoder} of the decoder; {fate}"


def _own_warnings(checked: CheckedSearch, plan: TokenizerPlan) -> Iterator[str]:
    """Yield warnings of what the search file says."""
    config, host = checked.config, checked.checkpoints[checked.host]
    is_vllm = config.evaluation.backend == "vllm"
    if is_vllm and not _tasks_by_answer(checked)[0]:
        yield (
            "evaluation.backend is 'vllm', but no task generates text, and log-likelihoods take "
            "less time with transformers; use the backend 'hf'."
        )
    optimizer = builtin(config.optimizer.name)
    is_lagging = config.executor.order == "arrival" and config.executor.kind != "inline"
    if is_lagging and optimizer is not None and optimizer.most_workers is not None:
        count, most = workers_of(config).count, optimizer.most_workers
        if count > most:
            yield (
                f"executor.order is 'arrival', so with {count} workers {config.optimizer.name!r} "
                f"proposes candidates before it knows the scores of {count - 1} others, and with "
                f"more than {most} it finds less with as many candidates (docs/scaling.md); use "
                "fewer workers, or `optimizer.name: cma` with `executor.order: generation`."
            )
    setting = None if is_vllm else slow_setting(host, plan, checked.evaluator)[1]
    if setting is not None:
        yield (
            f"{host.reference!r} sets {setting!r} in generation_config.json, which the fast "
            "generation does not support, so lm-eval itself generates the texts: the scores are "
            "the same, in more time; if the setting is not wanted, remove it there."
        )
    from evomerge.evaluation.tasks.code import has_bubblewrap

    if (tasks := checked.evaluator.code_tasks) and not has_bubblewrap():
        yield (
            f"code that models write for {', '.join(tasks)} can read and change your files and use "
            "the network, since only its time and memory are limited (docs/evaluation.md); run the "
            "search in a container that holds nothing else, or install bubblewrap."
        )


def _tasks_by_answer(checked: CheckedSearch) -> tuple[list[str], list[str]]:
    """Return the tasks that generate text, and those that compare log-likelihoods."""
    info = checked.evaluator.tasks_of("search").info
    kinds = {name: info.tasks[name].kind for name in sorted(leaves_of(checked.config, info))}
    texts = [name for name, kind in kinds.items() if kind == "generate_until"]
    return texts, [
        name
        for name, kind in kinds.items()
        if kind not in ("generate_until", "function", "encoder", "classifier")
    ]


def _backend(checked: CheckedSearch) -> str:
    """Return what runs the models for which tasks, and whether another backend may be cheaper."""
    texts, likelihoods = _tasks_by_answer(checked)
    if checked.config.evaluation.backend == "hf":
        longer = "; vllm may take less time for texts of many tokens (docs/vllm.md)"
        known = checked.evaluator.tasks_of("search").info.tasks
        host = checked.checkpoints[checked.host]
        texts = [
            task for task in texts if not known[task].shows_images and not is_encoder_decoder(host)
        ]
        return "hf" + (longer if texts and checked.config.space.kind == "parameters" else "")
    parts = [f"vllm for texts ({', '.join(texts)})"] if texts else []
    likelihoods += [f"{NLL} of {task}" for task in texts if task in checked.evaluator.referenced]
    parts += [f"hf for log-likelihoods ({', '.join(likelihoods)})"] if likelihoods else []
    parts += ["hf for the steps of descents"] * checked.config.optimizer.descends
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
    if task.repeats == 1 or not task.is_sampled or task.has_filters:
        return None
    return (
        f"task {task.name!r} samples {task.repeats} texts for each document, but has no "
        "filter_list, so lm-eval only reads the first of them; add filters that read all, such "
        "as majority_vote, or set repeats to 1 in its YAML."
    )
