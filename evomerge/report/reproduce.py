"""The command with which stock lm-eval repeats the test score of an exported model."""

from __future__ import annotations

import json
import shlex

from evomerge import zoo
from evomerge.config.schema import SearchConfig
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate


def lm_eval_command(
    run: RunFolder, config: SearchConfig, best: Candidate | None, threads: int | None
) -> str | None:
    """Return the `lm_eval` command that scores the model in `MODEL_DIR` on the test documents.

    None: there are none, or the options of lm-eval cannot name them.

    Args:
        threads: number of CPU threads that have scored the candidates. One is in the command, too:
            with all cores, a small model takes minutes on a busy machine, and bits may differ.
    """
    evaluation, tasks = config.evaluation, config.tasks
    if len(evaluation.include) > 1:  # lm-eval takes one folder
        return None
    usual = evaluation.test.task_split in (None, "test")  # what lm-eval takes by itself
    other = config.rows or any(":" in task for task in tasks)
    if not tasks or evaluation.test.tasks or not usual or other:
        return None
    wanted = {
        "enable_thinking": evaluation.enable_thinking,
        "think_end_token": evaluation.think_end_token,
    }
    dtype = "auto" if best is not None and "test" in best.as_itself else config.dtype
    reasoning = [f"{name}={value}" for name, value in wanted.items() if value is not None]
    options = {
        "--model": "hf",
        "--model_args": ",".join(["pretrained=MODEL_DIR", f"dtype={dtype}", *reasoning]),
        "--tasks": ",".join(tasks),
        "--batch_size": "1" if evaluation.batch_size == "auto" else str(evaluation.batch_size),
    }
    if evaluation.fewshot is not None:
        options["--num_fewshot"] = str(evaluation.fewshot)
    words = [shlex.quote(word) for option in options.items() for word in option]
    for folder in evaluation.include:
        path = zoo.tasks_path() if folder == "zoo:tasks" else (run.path / folder).resolve()
        words += ["--include_path", shlex.quote(str(path))]
    if evaluation.generation.changes:
        words += ["--gen_kwargs", shlex.quote(json.dumps(evaluation.generation.changes))]
    if evaluation.chat_template:
        words.append("--apply_chat_template")
    start = ["OMP_NUM_THREADS=1", "lm_eval"] if threads == 1 else ["lm_eval"]
    if config.frozen is not None and config.frozen.allow_code:
        start.insert(0, "HF_ALLOW_CODE_EVAL=1")  # Hugging Face's `code_eval` wants it
        words.append("--confirm_run_unsafe_code")
    samples = f'"$(evomerge results {shlex.quote(str(run.path))} --documents test)"'
    return " ".join([*start, *words, "--samples", samples])
