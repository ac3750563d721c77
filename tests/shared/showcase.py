"""For tests of the showcase's questions: the right answers, worked out from the prompts alone."""

from __future__ import annotations

import calendar
import json
import re

from scripts.real.questions import Question

_SPANISH_WEEK = ["lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo", "lunes"]
_CAPITALS = {
    "France": "Paris",
    "Spain": "Madrid",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Japan": "Tokyo",
    "Russia": "Moscow",
    "Francia": "París",
    "España": "Madrid",
    "Italia": "Roma",
    "Alemania": "Berlín",
    "Japón": "Tokio",
    "Rusia": "Moscú",
}


def numbers(question: Question) -> tuple[int, ...]:
    """Return the numbers in a prompt, in order."""
    return tuple(map(int, re.findall(r"\d+", question.prompt)))


def right_answer(prompt: str) -> str:
    """Return the right answer to a prompt."""
    text, request = prompt.split("\n")
    spanish = text.startswith("¿")
    digits = re.findall(r"\d+", text)
    if "+" in text:
        answer = str(sum(map(int, digits)))
    elif "backwards" in text:
        answer = "".join(reversed(digits[0]))
    elif digits:
        answer = str(int(digits[0]) + 1)
    else:
        word = re.findall(r"\w+", text)[-1]
        week = _SPANISH_WEEK if spanish else [*calendar.day_name, "Monday"]
        answer = week[week.index(word) + 1] if word in week else _CAPITALS[word]
    sentence = f"La respuesta es {answer}." if spanish else f"The answer is {answer}."
    return json.dumps({"answer": sentence}, ensure_ascii=False) if request == "JSON:" else sentence
