"""How the stock lm_eval scores the model of a search, and where its scores differ."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from evomerge import zoo
from evomerge.config.record import Record


def stock_command(
    record: Record, run: Path, *, single_thread: bool, stored_dtype: bool
) -> str | None:
    """Return the `lm_eval` command that scores the model in `MODEL_DIR` on the test documents.

    All tasks are lm-eval's own. None: there are none, or its options cannot name them. Where
    candidates were scored by a `single_thread`, so does the command: with all cores, a small model
    takes minutes on a busy machine, and bits may differ. `stored_dtype`: the model is scored in the
    dtype of its files.
    """
    config = record.config
    evaluation, tasks = config.evaluation, config.tasks
    usual = evaluation.test.task_split in (None, "test")  # what lm-eval takes by itself
    if not tasks or evaluation.test.tasks or not usual or len(evaluation.include) > 1:
        return None
    dtype = "auto" if stored_dtype and evaluation.float32 is not True else config.compute
    model = ["pretrained=MODEL_DIR", f"dtype={dtype}"]
    given = {name: getattr(evaluation, name) for name in ("enable_thinking", "think_end_token")}
    model += [f"{name}={value}" for name, value in given.items() if value is not None]
    kind = "hf-multimodal" if record.sees else "hf"
    words = ["--model", kind, "--model_args", ",".join(model), "--tasks", ",".join(tasks)]
    words += ["--batch_size", str(evaluation.batch_size).replace("auto", "1")]
    if evaluation.fewshot is not None:
        words += ["--num_fewshot", str(evaluation.fewshot)]
    for folder in evaluation.include:
        path = zoo.tasks_path() if folder == "zoo:tasks" else run / folder
        words += ["--include_path", str(path.resolve())]
    if evaluation.generation.changes:
        words += ["--gen_kwargs", json.dumps(evaluation.generation.changes)]
    if evaluation.chat_template:
        words.append("--apply_chat_template")
    start = ["OMP_NUM_THREADS=1", "lm_eval"] if single_thread else ["lm_eval"]
    if record.allow_code:
        start.insert(0, "HF_ALLOW_CODE_EVAL=1")  # Hugging Face's `code_eval` wants it
        words.append("--confirm_run_unsafe_code")
    results = f"evomerge results {shlex.quote(str(run))} --documents test"
    return " ".join([*start, *map(shlex.quote, words), "--samples", f'"$({results})"'])


def sampling_note(sampled: Mapping[str, int]) -> str | None:
    """Return a sentence about texts drawn at random (task -> number for a document), or None."""
    if not sampled:
        return None
    texts = ", ".join(f"{task} ({count} for each document)" for task, count in sampled.items())
    return (
        f"Texts are drawn at random: {texts}. Their seeds come from the search file, so evomerge "
        "repeats these scores, but lm_eval draws other texts, so its scores differ by chance."
    )
