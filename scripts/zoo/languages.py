"""The words of the embedded models: two invented languages, L1 and L2.

L1 resembles English; L2 has other words and another word order. Both use the same numerals.
"""

from __future__ import annotations

from dataclasses import dataclass

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
PUNCTUATION = (".", "?", ":")
NUMERALS = tuple(str(number) for number in range(19))
TOPIC = "wa"
"""The particle after the name of the person in L2."""


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
"""Words of the documents that count (`scripts.zoo.stories.counting`)."""

FACTS = {
    "colour": ("red", "green", "blue", "white"),
    "place": ("farm", "town", "sea", "hill"),
    "cost": ("cheap", "fair", "dear", "free"),
}
"""Kinds of facts about things, in L1: kind -> possible answers."""


def vocabulary() -> list[str]:
    """Return the models' vocabulary; a word's position is its token id."""
    facts = [word for kind, answers in FACTS.items() for word in (kind, *answers)]
    shared = (*PUNCTUATION, *NUMERALS, TOPIC, UP, DOWN)
    return [PAD, EOS, UNKNOWN, *shared, *L1.words(), *L2.words(), *facts]
