"""Whether models suit lm-eval's tasks, and what a person should know of both before a search."""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.generation import unsupported_setting
from evomerge.evaluation.inference.reference import processor_of
from evomerge.evaluation.tasks.code import has_bubblewrap
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.info import TaskInfo
from evomerge.evaluation.tasks.objective import Merges, Objective
from evomerge.evaluation.tasks.stock import sampling_note
from evomerge.models.parts import check_causal, check_chat_template, is_encoder_decoder

_KNOWN = re.compile(
    r"^(mmlu|gsm8k|gsm_plus|mgsm|hellaswag|arc_(easy|challenge)|winogrande|truthfulqa|bbh|gpqa|"
    r"ifeval|humaneval|mbpp|piqa|boolq|openbookqa|lambada|triviaqa|nq_open|squad|drop|race|"
    r"hendrycks|minerva_math|math_|musr|leaderboard|agieval|cmmlu|ceval|jmmlu|xnli|xcopa|belebele|"
    r"wikitext|super_?glue|glue|anli|commonsense_qa|social_iqa|sciq|logiqa|toxigen|aime)"
)


class Suitable(Objective):
    """What lm-eval's tasks check and tell; `harness` has the tasks, `backend` runs models.

    Attributes:
        referenced: the tasks whose reference answers are scored.
    """

    harness: Harness
    backend: str
    referenced: Collection[str]

    def check(self, merges: Merges) -> None:
        """Check that models write texts, and what lm-eval's own classes answer for them.

        That is tasks that show images, and encoder-decoders.

        InputError: the host writes no texts, has no chat template, cannot see, or does not give the
        tokenizer; or what is asked for needs our own ways: likelihoods of reference answers,
        gradients, vLLM.
        """
        host, tasks, backend = merges.host, self.info.tasks, self.backend
        check_causal(host)
        if self.harness.apply_chat_template and merges.vocabulary == "base":
            check_chat_template(host)
        if alone := [name for name, info in tasks.items() if info.shows_images]:
            if "vision" not in host.modalities:
                raise ConfigError(
                    f"objectives: task {alone[0]!r} shows images, but the host {host.reference!r} "
                    "has no vision tower; set `space.host` to a parent that sees."
                )
            if merges.vocabulary not in ("base", "union", host.reference):
                raise ConfigError(
                    f"`tokenizer` is {merges.vocabulary!r}, but task {alone[0]!r} shows images, "
                    f"which needs the host's tokens; set it to base, union or {host.reference!r}."
                )
            processor_of(host.folder, None)
            what = f"task {alone[0]!r} shows images, so lm-eval itself generates its answers"
        elif alone := [*tasks] if is_encoder_decoder(host) else []:
            reason = f"the host {host.reference!r} is an encoder-decoder"
            what = f"{reason}, whose tasks lm-eval itself runs"
        for key, is_wanted in {
            "evaluation.backend is 'vllm'": backend == "vllm",
            "optimizer uses gradients": merges.descends,
            "an objective or constraint is `nll`": bool({*self.referenced} & {*alone}),
        }.items():
            if alone and is_wanted:
                raise ConfigError(
                    f"objectives: {what}, but {key}, which it cannot do; change this, or take text "
                    "tasks and causal language models."
                )
        if backend == "vllm" and (setting := self._slow_setting(merges)) is not None:
            raise ConfigError(
                f"evaluation.backend is 'vllm', but {host.reference!r} sets {setting!r} in "
                "generation_config.json, which it does not know; remove it there, or use 'hf'."
            )

    def _slow_setting(self, merges: Merges) -> str | None:
        """Return a setting of the merges' generation config that only lm-eval itself knows."""
        texts = [task for task in self.info.tasks.values() if task.generates]
        settings = merges.generation() if texts and not is_encoder_decoder(merges.host) else None
        return None if settings is None else unsupported_setting(settings)

    def words(self, merges: Merges) -> Mapping[str, Any]:
        """Return what runs models and the code that they write, and how texts are drawn."""
        texts = [task for task in self.info.tasks.values() if task.generates]
        runs = "hf"
        if self.backend == "vllm":
            names = ", ".join(task.name for task in texts) or "none"
            runs = f"vllm for texts ({names}), hf for log-likelihoods and gradients"
        code = f"runs in processes with limits{', in bubblewrap' if has_bubblewrap() else ''}"
        sampled = {name: it.repeats for name, it in self.info.tasks.items() if it.is_sampled}
        return {
            "backend": runs,
            "code": code if self.harness.origins else None,
            "sampling": sampling_note(sampled),
        }

    def warnings(self, merges: Merges) -> Iterator[str]:
        """Yield what costs time or does nothing, and what code of models may do."""
        if (setting := self._slow_setting(merges)) is not None:
            yield (
                f"{merges.host.reference!r} sets {setting!r} in generation_config.json, so lm-eval "
                "itself generates the texts, which takes more time; remove it there if unwanted."
            )
        if (tasks := self.harness.origins) and not has_bubblewrap():
            yield (
                f"code that models write for {', '.join(tasks)} can read and change your files and "
                "use the network, since only its time and memory are limited (docs/evaluation.md); "
                "run the search in a container that holds nothing else, or install bubblewrap."
            )

    def benchmarks(self) -> Iterator[str]:
        """Yield warnings of tasks that are public benchmarks."""
        return filter(None, map(benchmark_warning, self.info.tasks.values()))


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
