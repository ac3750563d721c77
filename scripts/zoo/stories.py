"""The documents of the embedded models and tasks: short stories with a question and an answer.

A story says that somebody has a number of things, and then that the number rises, falls or is set
to another one. The question is about the story. An answer with a number ends with the counting word
of its language, so it is right only if both the number and the language are right::

    tom has 7 apples . buys 5 . howmany now ? : 12 items
    taro wa ringo 7 motsu . kau 5 . ima ikutsu ? : 12 ko

In some stories more things happen. The answer can then be written after its steps::

    tom has 7 apples . buys 5 . sells 3 . howmany now ? :
    then 7 more 5 : 12 . then 12 less 3 : 9 . 9 items

All random choices use `random.Random.random`, whose sequence for a seed is the same in all versions
of Python, so equal seeds give equal documents everywhere. Stories are divided by their hash: one
eighth (`held_out`) appears only in task documents, the others only in training.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from scripts.zoo.languages import DOWN, FACTS, L1, L2, NUMERALS, TOPIC, UP, Language

T = TypeVar("T")

HELD_OUT_SHARE = 8
"""One of this many stories is held out from training."""


@dataclass(frozen=True)
class Document:
    """A story, a question about it, and the right answer.

    Attributes:
        kind: the kind of question: plus, minus, set, first, change, way, colour, place, cost or
            count; one, two or three if a story has so many sums.
        choices: for multiple choice, all possible answers, the right one among them; else empty.
        steps: what a model that reasons writes before the answer; empty if it answers at once.
    """

    kind: str
    story: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    steps: str = ""

    @property
    def prompt(self) -> str:
        """The input of a model, up to and including the colon."""
        return f"{self.story} {self.question} :"


Maker = Callable[[random.Random], Document]
"""Makes a random document."""


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """Return one of `options`, drawn uniformly."""
    return options[int(rng.random() * len(options))]


def shuffled(rng: random.Random, items: Sequence[T]) -> list[T]:
    """Return `items` in random order."""
    keyed = [(rng.random(), position) for position in range(len(items))]
    return [items[position] for _, position in sorted(keyed)]


def held_out(story: str) -> bool:
    """Return whether a story is held out from training, for task documents only."""
    return hashlib.blake2b(story.encode(), digest_size=8).digest()[0] % HELD_OUT_SHARE == 0


def training_document(maker: Maker, rng: random.Random) -> Document:
    """Return the next document of `maker` whose story is not held out."""
    while held_out((document := maker(rng)).story):
        pass
    return document


def _openings(language: Language, name: str, before: int, thing: str) -> list[str]:
    """Return the first sentence of a story in each word order: L1 has three, L2 has two.

    In a story with the last word order, the number of an event is before the verb.
    """
    has = language.has
    if language is L1:
        return [
            f"{name} {has} {before} {thing} .",
            f"{before} {thing} {has} {name} .",
            f"{thing} {name} {has} {before} .",
        ]
    return [f"{name} {TOPIC} {thing} {before} {has} .", f"{thing} {before} {name} {TOPIC} {has} ."]


def _story_text(language: Language, rng: random.Random, before: int, verb: str, amount: int) -> str:
    """Return a story in a random word order of the language."""
    name, thing = pick(rng, language.names), pick(rng, language.things)
    then = f"{language.then} " if rng.random() < 0.5 else ""
    openings = _openings(language, name, before, thing)
    opening = pick(rng, openings)
    event = f"{amount} {verb}" if opening == openings[-1] else f"{verb} {amount}"
    return f"{opening} {then}{event} ."


def _draw_story(language: Language, rng: random.Random, way: str) -> tuple[str, int, int]:
    """Return a random story, the number before the event, and that which its verb refers to."""
    if way == "set":
        before, amount = pick(rng, range(len(NUMERALS))), pick(rng, range(len(NUMERALS)))
        verbs = language.settings
    else:
        before, amount = pick(rng, range(1, 10)), pick(rng, range(1, 10))
        verbs = language.gains
        if way == "minus":
            before, amount = max(before, amount), min(before, amount)
            verbs = language.losses
    return _story_text(language, rng, before, pick(rng, verbs), amount), before, amount


def _question_text(language: Language, word: str) -> str:
    if language is L1:
        return f"{language.how_many} {word} ?"
    return f"{word} {language.how_many} ?"


def language_question(language: Language) -> Maker:
    """Return a maker of questions that need the language but no arithmetic.

    They ask for the first number, the change, the direction of the change, or the number after it
    was set.
    """

    def make(rng: random.Random) -> Document:
        way = pick(rng, ("plus", "minus", "set"))
        story, before, amount = _draw_story(language, rng, way)
        kinds = ("first", "change", "way", "set") if way == "set" else ("first", "change", "way")
        kind = pick(rng, kinds)
        if kind == "way":
            outcome = {"plus": language.more, "minus": language.less, "set": language.new}[way]
            return Document(kind, story, f"{language.way} ?", outcome)
        word = {"first": language.first, "change": language.change, "set": language.now}[kind]
        number = before if kind == "first" else amount
        return Document(kind, story, _question_text(language, word), f"{number} {language.counter}")

    return make


def arithmetic_question(language: Language) -> Maker:
    """Return a maker of questions that need addition or subtraction.

    The answer is a + b or a - b, with a and b from 1 to 9, and a >= b for a - b. There are six
    choices: three numbers, each with the counting word of L1 and with that of L2. The numbers are
    the right one and two of these: the result with the other sign, b, the right one +- 1.
    """

    def make(rng: random.Random) -> Document:
        way = pick(rng, ("plus", "minus"))
        story, before, amount = _draw_story(language, rng, way)
        right = before + amount if way == "plus" else before - amount
        other = abs(before - amount) if way == "plus" else before + amount
        wrong = [n for n in (other, amount, right + 1, right - 1) if n != right and n in range(19)]
        numbers = [right, *dict.fromkeys(wrong)][:3]
        choices = [f"{n} {lang.counter}" for n in numbers for lang in (L1, L2)]
        answer = f"{right} {language.counter}"
        question = _question_text(language, language.now)
        return Document(way, story, question, answer, tuple(shuffled(rng, choices)))

    return make


def chain_question(rng: random.Random) -> Document:
    """Return a question, in L1, that needs one to three sums or differences, one after the other.

    All amounts are from 1 to 9, and all results are from 0 to 18. The steps name each sum and its
    result.
    """
    kinds = ("one", "two", "three")
    kind = pick(rng, kinds)
    numbers: list[int] = []
    while not numbers or any(number not in range(len(NUMERALS)) for number in numbers):
        numbers, changes = [pick(rng, range(1, 10))], []
        for _ in range(kinds.index(kind) + 1):
            sign = pick(rng, (1, -1))
            changes.append(sign * pick(rng, range(1, 10)))
            numbers.append(numbers[-1] + changes[-1])
    openings = _openings(L1, pick(rng, L1.names), numbers[0], pick(rng, L1.things))
    story = opening = pick(rng, openings)
    steps = []
    for change, before, after in zip(changes, numbers, numbers[1:], strict=False):
        verb, amount = pick(rng, L1.gains if change > 0 else L1.losses), abs(change)
        then = f"{L1.then} " if rng.random() < 0.5 else ""
        event = f"{amount} {verb}" if opening == openings[-1] else f"{verb} {amount}"
        story += f" {then}{event} ."
        direction = L1.more if change > 0 else L1.less
        steps.append(f"{L1.then} {before} {direction} {amount} : {after} .")
    question, answer = _question_text(L1, L1.now), f"{numbers[-1]} {L1.counter}"
    return Document(kind, story, question, answer, steps=" ".join(steps))


def fact(thing: str, kind: str) -> str:
    """Return the right answer, in L1, to a question of a kind of `FACTS` about a thing of L1."""
    position, turn = L1.things.index(thing), list(FACTS).index(kind)
    return FACTS[kind][(position + turn * (position // 4) + turn) % 4]


def fact_question(rng: random.Random) -> Document:
    """Return a question, in L1, for the colour, the place or the cost of the thing in the story.

    The story does not contain the answer; a model must have learned it. The choices are all
    answers of that kind.
    """
    story, _, _ = _draw_story(L1, rng, pick(rng, ("plus", "minus", "set")))
    thing = next(word for word in story.split() if word in L1.things)
    kind = pick(rng, tuple(FACTS))
    return Document(kind, story, f"{kind} ?", fact(thing, kind), tuple(shuffled(rng, FACTS[kind])))


def counting(rng: random.Random) -> Document:
    """Return a document that counts four steps up or down; it teaches the order of the numerals."""
    start = pick(rng, range(4, 15))
    direction, step = pick(rng, ((UP, 1), (DOWN, -1)))
    numbers = " ".join(str(start + step * i) for i in range(1, 5))
    return Document("count", f"{direction} {start}", "?", numbers)


@dataclass(frozen=True)
class Task:
    """An lm-eval task: the maker of its documents, their number, and whether they have choices."""

    maker: Maker
    count: int
    multiple_choice: bool = False


TASKS = {
    "zoo_l2_maths": Task(arithmetic_question(L2), 1800),
    "zoo_l2_maths_mc": Task(arithmetic_question(L2), 1600, multiple_choice=True),
    "zoo_l2": Task(language_question(L2), 1600),
    "zoo_maths": Task(arithmetic_question(L1), 1600),
    "zoo_facts": Task(fact_question, 1600, multiple_choice=True),
    "zoo_steps": Task(chain_question, 1600),
}


def task_documents(seed: int = 0) -> dict[str, list[Document]]:
    """Return the documents of every task: task -> documents.

    No story occurs twice, neither within a task nor across tasks.
    """
    documents: dict[str, list[Document]] = {}
    used: set[str] = set()
    for name, task in TASKS.items():
        rng = random.Random(f"{seed}/{name}")
        chosen: list[Document] = []
        while len(chosen) < task.count:
            document = task.maker(rng)
            if held_out(document.story) and document.story not in used:
                used.add(document.story)
                chosen.append(document)
        documents[name] = chosen
    return documents


def task_lines(name: str) -> str:
    """Return a task's JSON-lines file: id, kind, prompt, answer and, if any, choices and gold."""
    lines = []
    for number, document in enumerate(task_documents()[name]):
        row: dict[str, object] = {
            "id": f"{name}-{number}",
            "kind": document.kind,
            "prompt": document.prompt,
            "answer": document.answer,
        }
        if TASKS[name].multiple_choice:
            row["choices"] = document.choices
            row["gold"] = document.choices.index(document.answer)
        lines.append(json.dumps(row) + "\n")
    return "".join(lines)
