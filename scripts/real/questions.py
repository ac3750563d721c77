"""The questions that the experts are trained on and that the merges are tested with.

Each skill is a function that makes one question with its answer. A plain answer is a sentence,
"The answer is 68." In Spanish it is "La respuesta es 68."; in JSON it is the sentence as a value,
`{"answer": "The answer is 68."}`.

The numbers of a question decide which pool it belongs to, so no pool has a question with the
numbers of another pool's questions, in any language and format. (The question which number comes
after another one is in all pools; no task asks it.)
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Language: TypeAlias = Literal["en", "es"]
Pool: TypeAlias = Literal["experts", "development", "evaluation"]
"""experts: training documents; development: for choosing settings; evaluation: for results."""

_SHARES: dict[str, Pool] = {"0123": "experts", "4567": "development", "89abcdef": "evaluation"}

_SENTENCES: dict[Language, str] = {"en": "The answer is {}.", "es": "La respuesta es {}."}
_JSON_REQUEST = "JSON:"
"""Stands at the end of the prompt. With "Answer in JSON." before the line break, every merge began
its answer as the other experts do after a line break, with "The"."""

_SUMS: dict[Language, list[str]] = {
    "en": ["How much is {} + {}?", "What is {} + {}?"],
    "es": ["¿Cuánto es {} + {}?", "¿Cuál es el resultado de {} + {}?"],
}
_NEXT: dict[Language, str] = {
    "en": "Which number comes after {}?",
    "es": "¿Qué número va después de {}?",
}
_TOMORROW: dict[Language, str] = {
    "en": "Which day comes after {}?",
    "es": "¿Qué día va después del {}?",
}
_DAYS: dict[Language, list[str]] = {
    "en": ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
    "es": ["lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo"],
}
_BACKWARDS = ["What is {} backwards?", "How do you write {} backwards?"]

_CAPITALS: dict[Language, str] = {
    "en": "What is the capital of {}?",
    "es": "¿Cuál es la capital de {}?",
}
_PLACES: dict[Language, str] = {
    "en": "France Paris, Spain Madrid, Italy Rome, Germany Berlin, Japan Tokyo, Russia Moscow",
    "es": "Francia París, España Madrid, Italia Roma, Alemania Berlín, Japón Tokio, Rusia Moscú",
}
_COUNTRIES = {
    language: [tuple(pair.split()) for pair in places.split(", ")]
    for language, places in _PLACES.items()
}
"""Language -> (country, capital) in that language."""


@dataclass(frozen=True)
class Question:
    """A question with its only right answer.

    Attributes:
        prompt: the text the model continues.
        answer: the whole text that the model should write.
    """

    prompt: str
    answer: str


Maker: TypeAlias = Callable[[random.Random, Pool], Question]


def pool_of(*numbers: int) -> Pool:
    """The pool of a question about these numbers. Their order matters."""
    digit = hashlib.sha256(repr(numbers).encode()).hexdigest()[0]
    return next(pool for digits, pool in _SHARES.items() if digit in digits)


def sums(language: Language, json: bool = False) -> Maker:
    """The sum of two different numbers from 10 to 69."""

    def make(rng: random.Random, pool: Pool) -> Question:
        one, two = _pair(rng, pool)
        text = rng.choice(_SUMS[language]).format(one, two)
        return _question(text, str(one + two), language, json)

    return make


def backwards(json: bool = False) -> Maker:
    """The digits of a number from 1000 to 9999 in reverse order, in English."""

    def make(rng: random.Random, pool: Pool) -> Question:
        while True:
            number = rng.randrange(1000, 10000)
            answer = str(number)[::-1]
            if pool_of(number) == pool and answer != str(number):
                break
        return _question(rng.choice(_BACKWARDS).format(number), answer, "en", json)

    return make


def plain(language: Language, json: bool = False) -> Maker:
    """Questions that need neither sums nor reversed digits: they show a language or a format."""

    def make(rng: random.Random, pool: Pool) -> Question:
        kind = rng.choice(["number", "day", "capital"])
        if kind == "capital":
            country, answer = rng.choice(_COUNTRIES[language])
            text = _CAPITALS[language].format(country)
        elif kind == "day":
            day = rng.randrange(7)
            answer = _DAYS[language][(day + 1) % 7]
            text = _TOMORROW[language].format(_DAYS[language][day])
        else:
            number, _ = _pair(rng, pool)
            answer, text = str(number + 1), _NEXT[language].format(number)
        return _question(text, answer, language, json)

    return make


def either(*makers: Maker) -> Maker:
    """A question of one of these kinds, each as likely as the others."""

    def make(rng: random.Random, pool: Pool) -> Question:
        return rng.choice(makers)(rng, pool)

    return make


def draw(maker: Maker, pool: Pool, count: int, seed: str, unique: bool = False) -> list[Question]:
    """Make `count` questions of a pool. Equal arguments give equal questions.

    Args:
        unique: whether every prompt occurs only once.

    Raises:
        ValueError: the pool seems to have fewer different prompts than `count`.
    """
    rng = random.Random(f"{seed}/{pool}")
    questions: list[Question] = []
    seen: set[str] = set()
    for _ in range(100 * count):
        question = maker(rng, pool)
        if not unique or question.prompt not in seen:
            seen.add(question.prompt)
            questions.append(question)
        if len(questions) == count:
            return questions
    raise ValueError(f"the pool {pool!r} has only {len(questions)} of {count} questions")


def _pair(rng: random.Random, pool: Pool) -> tuple[int, int]:
    while True:
        one, two = rng.randrange(10, 70), rng.randrange(10, 70)
        if one != two and pool_of(one, two) == pool:
            return one, two


def _question(text: str, answer: str, language: Language, json: bool) -> Question:
    sentence = _SENTENCES[language].format(answer)
    if not json:
        return Question(f"{text}\n", sentence)
    return Question(f"{text}\n{_JSON_REQUEST}", f'{{"answer": "{sentence}"}}')
