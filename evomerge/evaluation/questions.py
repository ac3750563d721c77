"""Questions with answers in a file, and the task of lm-eval that `evomerge init` writes for them.

The columns say what is asked and what is right. The answers say how to score: a choice by its
log-likelihood, a short answer by whether the model writes it, a long one by its likelihood. The
result is an ordinary task in YAML, which people change as they like.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from evomerge.errors import ConfigError, blaming
from evomerge.parsing.texts import check_ordinary
from evomerge.parsing.values import shown
from evomerge.scores import NLL

READERS = {".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}
"""The ending of a file -> the reader of `datasets` by which lm-eval reads it."""

ENOUGH = 150
"""Number of rows below which a search, its choice of the winner and its test have few documents."""

_QUESTIONS = ("question", "query", "prompt", "instruction", "input")
_ANSWERS = ("answer", "completion", "response", "output", "target")
_CHOICES = ("choices", "options")
_RIGHT = ("answer", "answerkey", "answer_index", "label", "gold", "correct", "target")
_LETTERS = "ABCDEFGHIJ"
_KNOWN = (
    "question and answer, prompt and completion, instruction, input and output, messages, or "
    "question, choices and answer"
)
_LONGEST = 40  # characters of an answer that is compared as a whole
_CHAT_ENDS = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>"]
_STRIP = [{"function": "remove_whitespace"}, {"function": "take_first"}]
_HEAD = """\
# Written by `evomerge init`. Paths start from this folder.
# {0}.
# Change prompt, stop and metric as you like (docs/how-to/own-task.md).
"""

Row = Mapping[str, Any]


class Questions(NamedTuple):
    """A file of questions as a task of lm-eval.

    Attributes:
        task: the name of the task.
        yaml: the text of its file.
        metric: the metric that suits the answers.
        rows: number of rows.
        about: what the columns and the answers are taken for.
    """

    task: str
    yaml: str
    metric: str
    rows: int
    about: str


class _Form(NamedTuple):
    """Where a row has its question and its answer.

    Attributes:
        columns: the columns that are read.
        question, answer, choices: templates of lm-eval, or names of columns; without choices, the
            answer is open.
        texts: returns what must not be empty in a row: the question, and the answer or all choices.
    """

    columns: Sequence[str]
    question: str
    answer: str
    texts: Callable[[Row], Sequence[str]]
    choices: str = ""


def read_questions(
    file: Path, named: str, folder: Path, *, is_chat: bool, others: str
) -> Questions:
    """Return the task for a file of questions and answers.

    Args:
        file: a file that ends in one of `READERS`.
        named: the file as the person named it, for messages.
        folder: where the YAML will be.
        is_chat: whether models have a chat template, so that a question is asked as it is.
        others: the columns of rows that are no questions, for messages.

    Raises:
        ConfigError: the file cannot be read; its columns are not known; or a row has no question or
            answer, or one that lm-eval would read as something else.
    """
    options = {"keep_default_na": False} if file.suffix == ".csv" else {}
    rows = _read(file, named, options)
    form = _recognize(rows, named, others)
    _check(rows, form, file, named)
    metric, how, scoring = _scoring(rows, form, is_chat)
    task = re.sub(r"\W+", "_", file.stem).strip("_").lower() or "questions"
    path = Path(os.path.relpath(file.resolve(), folder.resolve())).as_posix()
    keys = {
        "task": task,
        "dataset_path": READERS[file.suffix],
        "dataset_kwargs": {"data_files": {"test": path}, **options},
        "test_split": "test",
        **scoring,
        "metadata": {"version": 1.0},
    }
    about = f"{len(rows)} rows with {', '.join(form.columns)}; {how}"
    yaml = _HEAD.format(how) + "".join(_lines(key, value) for key, value in keys.items())
    return Questions(task, yaml, metric, len(rows), about)


def _lines(key: str, value: Any) -> str:
    """Return the YAML of a key, with JSON values, in which prompts of several lines read best."""
    rows = value if isinstance(value, list) else [value]
    texts = (json.dumps(row, ensure_ascii=False) for row in rows)
    if isinstance(value, list):
        return f"{key}:\n" + "".join(f"  - {text}\n" for text in texts)
    return f"{key}: {next(texts)}\n"


def _read(file: Path, named: str, options: Mapping[str, Any]) -> list[Row]:
    """Return the rows of a file as lm-eval will read them."""
    check_ordinary([file], ConfigError)
    rows = list[Row]()
    if file.stat().st_size:
        why = f"--task {named} cannot be read: {{error}}; correct the file, or give another one."
        with blaming(ConfigError, why):
            import datasets

            were_shown = not datasets.are_progress_bars_disabled()
            datasets.disable_progress_bars()
            try:
                files = {"test": str(file.resolve())}
                read = datasets.load_dataset(READERS[file.suffix], data_files=files, **options)
                rows = [dict(row) for row in read["test"]]
            finally:
                if were_shown:
                    datasets.enable_progress_bars()
    if not rows:
        raise ConfigError(f"--task {named} has no rows; give a file with rows, or name a task.")
    return rows


def _recognize(rows: Sequence[Row], named: str, others: str) -> _Form:
    """Return where rows have their questions and answers; ConfigError: no columns are known."""
    columns = {name.lower(): name for name in rows[0]}
    if "messages" in columns:
        return _of_messages(columns["messages"])
    asked = next((columns[name] for name in _QUESTIONS if name in columns), None)
    if asked is not None:
        if (form := _of_choices(rows, columns, asked, named)) is not None:
            return form
        names = (columns[name] for name in _ANSWERS if name in columns)
        if (answer := next(names, None)) is not None:
            return _of_texts(rows, columns, asked, answer)
    raise ConfigError(
        f"--task {named} has the columns {', '.join(rows[0])}, but questions and answers are in "
        f"{_KNOWN}, and rows of encoders and classifiers in {others}; rename the columns, or write "
        "a task (docs/how-to/own-task.md)."
    )


def _of_messages(column: str) -> _Form:
    def texts(row: Row) -> list[str]:
        messages = [dict(message) for message in row[column] or ()]
        roles = [message.get("role") for message in messages]
        is_one_turn = roles in (["user", "assistant"], ["system", "user", "assistant"])
        return [_text(message.get("content")) for message in messages if is_one_turn] or [""]

    before = f"{column}[:-1] | map(attribute='content') | join('\\n\\n')"
    return _Form([column], f"{{{{{before}}}}}", f"{{{{{column}[-1].content | trim}}}}", texts)


def _of_texts(rows: Sequence[Row], columns: Mapping[str, str], asked: str, answer: str) -> _Form:
    more = columns.get("input") if asked.lower() == "instruction" else None
    question = f"{{{{{asked}}}}}"
    if more is not None:
        question += f"{{% if {more} %}}\n\n{{{{{more}}}}}{{% endif %}}"
    is_bare = all(row[answer] == _text(row[answer]) for row in rows)
    return _Form(
        [asked, *([more] if more else []), answer],
        question,
        # A template would make a list of an answer in brackets.
        answer if is_bare else f"{{{{{answer} | string | trim}}}}",
        lambda row: [_text(row[asked]), _text(row[answer])],
    )


def _of_choices(
    rows: Sequence[Row], columns: Mapping[str, str], asked: str, named: str
) -> _Form | None:
    """Return the form of questions with choices; None: they have none."""
    listed = next((columns[name] for name in _CHOICES if name in columns), None)
    letters = [columns[name.lower()] for name in _LETTERS if name.lower() in columns]
    if listed is None and len(letters) < 2:
        return None
    is_named = listed is not None and isinstance(rows[0][listed], Mapping)
    source = f"{listed}.text" if is_named else listed or f"[{', '.join(letters)}]"

    def choices(row: Row) -> list[Any]:
        if listed is None:
            return [row[letter] for letter in letters]
        return list((row[listed].get("text") if is_named else row[listed]) or ())

    right = next((columns[name] for name in _RIGHT if name in columns), None)
    place = None
    if right is not None and is_named:
        if all(row[right] in row[str(listed)].get("label", ()) for row in rows):
            place = f"{listed}.label.index({right})"
    elif right is not None:
        place = _place([(row[right], choices(row)) for row in rows], right, source)
    if place is None:
        raise ConfigError(
            f"--task {named} has choices, but no column says in the same way for every row which "
            "one is right; add the column answer with the letter of the right choice, its text, or "
            "its place from 0."
        )
    are_texts = all(isinstance(choice, str) for row in rows for choice in choices(row))
    return _Form(
        [asked, *([listed] if listed else letters), str(right)],
        f"{{{{{asked}}}}}",
        f"{{{{{place}}}}}",
        lambda row: [_text(row[asked]), *map(_text, choices(row) or [""])],
        f"{{{{{source}}}}}" if are_texts else f"{{{{{source} | map('string') | list}}}}",
    )


def _place(answers: Sequence[tuple[Any, Sequence[Any]]], right: str, source: str) -> str | None:
    """Return the expression for the place of the right choice; None: rows do not agree on one.

    `answers` has the cell of each row that says which one is right, and the choices.
    """
    if all(type(cell) is int and 0 <= cell <= len(choices) for cell, choices in answers):
        from_one = all(cell > 0 for cell, _ in answers)
        beyond = any(cell == len(choices) for cell, choices in answers)
        # If no row has the first place or the last, both ways to count are possible.
        return None if from_one is not beyond else f"{right} - 1" if from_one else right
    if all(cell in choices for cell, choices in answers):
        return f"{source}.index({right})"
    if all(cell in [*_LETTERS[: len(choices)]] for cell, choices in answers):
        return f"'{_LETTERS}'.index({right})"
    return None


def _check(rows: Sequence[Row], form: _Form, file: Path, named: str) -> None:
    """Raise a ConfigError for the first row that cannot be asked, or is not what the file has."""
    for number, row in enumerate(rows, 1):
        if not all(form.texts(row)):
            what = ", ".join(form.columns)
            raise ConfigError(
                f"--task {named}: row {number} has no question or no answer in {what} (messages "
                "are one of a user and one of an assistant, with one of the system before them or "
                "not); correct the row, or leave it out."
            )
        answer = form.texts(row)[-1]
        if form.answer[0] == "{" and not form.choices and answer[0] + answer[-1] == "[]":
            raise ConfigError(
                f"--task {named}: the answer of row {number} is {shown(answer)}, which lm-eval "
                "would take for a list; have it without space around it in a column answer."
            )
    if file.suffix == ".csv":
        with file.open(encoding="utf-8-sig", newline="") as lines:
            for number, (row, cells) in enumerate(
                zip(rows, csv.DictReader(lines), strict=False), 1
            ):
                for column in form.columns:
                    if str(row[column]) != cells.get(column):
                        raise ConfigError(
                            f"--task {named}: row {number} has {shown(cells.get(column))} in "
                            f"{column}, which lm-eval reads as {shown(row[column])}; save the "
                            "rows as .jsonl, with texts in quotes."
                        )


def _scoring(rows: Sequence[Row], form: _Form, is_chat: bool) -> tuple[str, str, Mapping[str, Any]]:
    """Return the metric that suits the answers, a clause about it, and the keys of the task."""
    is_prompt = form.columns[0].lower() == "prompt"
    as_it_is = is_chat or is_prompt
    question = form.question if as_it_is else f"Question: {form.question}\nAnswer:"
    asked: dict[str, Any] = {"doc_to_text": question, "doc_to_target": form.answer}
    if form.choices:
        keys = {"output_type": "multiple_choice", **asked, "doc_to_choice": form.choices}
        how = "acc counts the questions whose right choice the model finds likeliest"
        return "acc", how, {**keys, **_measured("acc", "acc_norm")}
    answers = [form.texts(row)[-1] for row in rows]
    begin = (str(row[form.columns[-1]]).lstrip(" ")[:1] for row in rows)
    if "\n" not in begin and all(map(_is_short, answers)):
        generation = {
            "until": _CHAT_ENDS if is_chat else ["\n"],
            "do_sample": False,
            "max_gen_toks": 8 + max(len(answer.encode()) for answer in answers) // 2,
        }
        keys = {"output_type": "generate_until", **asked, "generation_kwargs": generation}
        keys |= {"filter_list": [{"name": "stripped", "filter": _STRIP}]}
        how = "exact_match counts the answers that the model writes as they are in the file"
        return "exact_match", how, {**keys, **_measured("exact_match")}
    target = form.answer if is_chat else f" {_template(form.answer)}"
    if not is_chat and is_prompt and _is_joined(form, rows[0]):
        target = _template(form.columns[-1])
    keys = {"output_type": "loglikelihood", **asked, "doc_to_target": target}
    how = "nll is how unlikely the model finds the answers, which are long"
    return NLL, how, {**keys, **_measured("perplexity")}


def _is_short(answer: str) -> bool:
    return len(answer) <= _LONGEST and "\n" not in answer


def _template(answer: str) -> str:
    return answer if answer[0] == "{" else f"{{{{{answer}}}}}"


def _is_joined(form: _Form, row: Row) -> bool:
    """Whether there is space already between a prompt and its completion."""
    prompt, completion = str(row[form.columns[0]]), str(row[form.columns[-1]])
    return prompt[-1:].isspace() or completion[:1].isspace()


def _measured(*metrics: str) -> Mapping[str, Any]:
    aggregation = {"perplexity": "perplexity"}
    return {
        "metric_list": [
            {
                "metric": metric,
                "aggregation": aggregation.get(metric, "mean"),
                "higher_is_better": metric not in aggregation,
            }
            for metric in metrics
        ]
    }


def _text(cell: Any) -> str:
    """Return the text of a cell without space around it; empty: it has none."""
    return "" if cell is None or isinstance(cell, (list, Mapping)) else str(cell).strip()
