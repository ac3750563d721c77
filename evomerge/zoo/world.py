"""The documents of the embedded models and tasks: short stories in two invented languages.

L1 resembles English; L2 has other words and another word order. Both use the same numerals. A
document is a story (somebody has a number of things, then the number rises, falls or is set), a
question and the answer. An answer with a number ends with the counting word of its language, so it
is right only if both the number and the language are right::

    tom has 7 apples . buys 5 . howmany now ? : 12 items
    taro wa ringo 7 motsu . kau 5 . ima ikutsu ? : 12 ko

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

T = TypeVar("T")

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
PUNCTUATION = (".", "?", ":")
NUMERALS = tuple(str(number) for number in range(19))
TOPIC = "wa"
HELD_OUT_SHARE = 8
"""One of this many stories is held out from training."""


@dataclass(frozen=True)
class Language:
    """The words of one language; words at the same position in L1 and L2 are translations."""

    names: tuple[str, ...]
    things: tuple[str, ...]
    gains: tuple[str, ...]
    losses: tuple[str, ...]
    settings: tuple[str, ...]
    has: str
    then: str
    how_many: str
    now: str
    first: str
    change: str
    way: str
    more: str
    less: str
    new: str
    counter: str

    def words(self) -> tuple[str, ...]:
        """Return all words in a fixed order; word i of L1 and word i of L2 are translations."""
        lists = self.names + self.things + self.gains + self.losses + self.settings
        function_words = (self.has, self.then, self.how_many, self.now, self.first, self.change)
        return (*lists, *function_words, self.way, self.more, self.less, self.new, self.counter)


L1 = Language(
    names=("tom", "anna", "max", "eva", "paul", "lucy", "ben", "nina"),
    things=("apples", "books", "coins", "eggs", "stones", "pens", "cups", "shells"),
    gains=("buys", "finds", "gets"),
    losses=("sells", "loses", "eats"),
    settings=("sets", "makes"),
    has="has",
    then="then",
    how_many="howmany",
    now="now",
    first="first",
    change="change",
    way="way",
    more="more",
    less="less",
    new="new",
    counter="items",
)
L2 = Language(
    names=("taro", "hana", "ken", "yuki", "jiro", "emi", "sora", "mika"),
    things=("ringo", "hon", "kane", "tamago", "ishi", "fude", "wan", "kai"),
    gains=("kau", "mitsuke", "morau"),
    losses=("uru", "nakusu", "taberu"),
    settings=("kimeru", "suru"),
    has="motsu",
    then="tsugi",
    how_many="ikutsu",
    now="ima",
    first="hajime",
    change="henka",
    way="houkou",
    more="fueru",
    less="heru",
    new="shin",
    counter="ko",
)
UP, DOWN = "up", "down"
FACTS = {
    "colour": ("red", "green", "blue", "white"),
    "place": ("farm", "town", "sea", "hill"),
    "cost": ("cheap", "fair", "dear", "free"),
}
"""Kinds of facts about things, in L1, and the possible answers; `fact` gives the right one."""


def vocabulary() -> list[str]:
    """Return the models' vocabulary; a word's position is its token id."""
    facts = [word for kind, answers in FACTS.items() for word in (kind, *answers)]
    shared = (*PUNCTUATION, *NUMERALS, TOPIC, UP, DOWN)
    return [PAD, EOS, UNKNOWN, *shared, *L1.words(), *L2.words(), *facts]


@dataclass(frozen=True)
class Document:
    """A story, a question about it, and the right answer.

    Attributes:
        kind: the kind of question: plus, minus, set, first, change, way, colour, place, cost or
            count.
        choices: for multiple choice, all possible answers, the right one among them; else empty.
    """

    kind: str
    story: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The input of a model, up to and including the colon."""
        return f"{self.story} {self.question} :"


Maker = Callable[[random.Random], Document]


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


def _tell(language: Language, rng: random.Random, before: int, verb: str, amount: int) -> str:
    """Return a story in a random word order of the language (L1 has three, L2 two)."""
    name, thing = pick(rng, language.names), pick(rng, language.things)
    then = f"{language.then} " if rng.random() < 0.5 else ""
    has = language.has
    if language is L1:
        order = pick(rng, (0, 1, 2))
        if order == 0:
            return f"{name} {has} {before} {thing} . {then}{verb} {amount} ."
        if order == 1:
            return f"{before} {thing} {has} {name} . {then}{verb} {amount} ."
        return f"{thing} {name} {has} {before} . {then}{amount} {verb} ."
    if rng.random() < 0.5:
        return f"{name} {TOPIC} {thing} {before} {has} . {then}{verb} {amount} ."
    return f"{thing} {before} {name} {TOPIC} {has} . {then}{amount} {verb} ."


def _event(language: Language, rng: random.Random, way: str) -> tuple[str, int, int]:
    """Return (story, number before, number of the event); the result is always a known numeral."""
    if way == "set":
        before, amount = pick(rng, range(len(NUMERALS))), pick(rng, range(len(NUMERALS)))
        verbs = language.settings
    else:
        before, amount = pick(rng, range(1, 10)), pick(rng, range(1, 10))
        verbs = language.gains
        if way == "minus":
            before, amount = max(before, amount), min(before, amount)
            verbs = language.losses
    return _tell(language, rng, before, pick(rng, verbs), amount), before, amount


def _ask(language: Language, word: str) -> str:
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
        story, before, amount = _event(language, rng, way)
        kinds = ("first", "change", "way", "set") if way == "set" else ("first", "change", "way")
        kind = pick(rng, kinds)
        if kind == "way":
            outcome = {"plus": language.more, "minus": language.less, "set": language.new}[way]
            return Document(kind, story, f"{language.way} ?", outcome)
        word = {"first": language.first, "change": language.change, "set": language.now}[kind]
        number = before if kind == "first" else amount
        return Document(kind, story, _ask(language, word), f"{number} {language.counter}")

    return make


def arithmetic_question(language: Language) -> Maker:
    """Return a maker of questions that need addition or subtraction.

    The sums are a + b and a - b, with a and b from 1 to 9 and a >= b for a - b. The choices are
    three numbers (the right one and two of: the result with the other sign, the number of the
    event, neighbours of the right one), each with the counting word of L1 and that of L2.
    """

    def make(rng: random.Random) -> Document:
        way = pick(rng, ("plus", "minus"))
        story, before, amount = _event(language, rng, way)
        right = before + amount if way == "plus" else before - amount
        other = abs(before - amount) if way == "plus" else before + amount
        wrong = [n for n in (other, amount, right + 1, right - 1) if n != right and n in range(19)]
        numbers = [right, *dict.fromkeys(wrong)][:3]
        choices = [f"{n} {lang.counter}" for n in numbers for lang in (L1, L2)]
        answer = f"{right} {language.counter}"
        question = _ask(language, language.now)
        return Document(way, story, question, answer, tuple(shuffled(rng, choices)))

    return make


def fact(thing: str, kind: str) -> str:
    """Return the right answer, in L1, to a question of a kind of `FACTS` about a thing of L1."""
    position, turn = L1.things.index(thing), list(FACTS).index(kind)
    return FACTS[kind][(position + turn * (position // 4) + turn) % 4]


def fact_question(rng: random.Random) -> Document:
    """Return a question, in L1, for the colour, the place or the cost of the thing in the story.

    The story does not contain the answer; a model must have learned it. The choices are all
    answers of that kind.
    """
    story, _, _ = _event(L1, rng, pick(rng, ("plus", "minus", "set")))
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
}


def task_documents(seed: int = 0) -> dict[str, list[Document]]:
    """Return the documents of every task; no story occurs twice, within a task or across tasks."""
    made: dict[str, list[Document]] = {}
    told: set[str] = set()
    for name, task in TASKS.items():
        rng = random.Random(f"{seed}/{name}")
        fresh: list[Document] = []
        while len(fresh) < task.count:
            document = task.maker(rng)
            if held_out(document.story) and document.story not in told:
                told.add(document.story)
                fresh.append(document)
        made[name] = fresh
    return made


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
