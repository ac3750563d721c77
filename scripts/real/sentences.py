"""The sentences of the encoders' showcase: each in English, Spanish and German, with one meaning.

A sentence says who does what to which thing, where and when. Near ones differ in one of these five.
Training and questions have the same words, but no meaning in common.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Literal, TypeAlias

from scripts.real.places import ROOT

Language: TypeAlias = Literal["en", "es", "de"]
Meaning: TypeAlias = tuple[int, ...]
"""The number of the row that is taken in each of `PARTS`."""

Pool: TypeAlias = Literal["experts", "documents"]

LANGUAGES: tuple[Language, ...] = ("en", "es", "de")

ROWS = ROOT / "rows"
"""The files that encoders are scored on, a folder for each split."""

QUESTIONS = {"search": 60, "validation": 60, "test": 200}
"""Split -> number of its questions."""

_WHO = """
the baker|la panadera|die Bäckerin
the teacher|el profesor|der Lehrer
my grandmother|mi abuela|meine Großmutter
the tall boy|el chico alto|der große Junge
a doctor|una médica|eine Ärztin
the farmer|el granjero|der Bauer
her sister|su hermana|ihre Schwester
the old king|el viejo rey|der alte König
a soldier|un soldado|ein Soldat
the girl|la niña|das Mädchen
our neighbour|nuestro vecino|unser Nachbar
the judge|la jueza|die Richterin
"""
_DOES = """
paints|pinta|malt
sells|vende|verkauft
washes|lava|wäscht
carries|lleva|trägt
buys|compra|kauft
looks for|busca|sucht
breaks|rompe|zerbricht
repairs|repara|repariert
hides|esconde|versteckt
steals|roba|stiehlt
forgets|olvida|vergisst
photographs|fotografía|fotografiert
"""
_WHAT = """
an old chair|una silla vieja|einen alten Stuhl
the green door|la puerta verde|die grüne Tür
a heavy book|un libro pesado|ein schweres Buch
the white plate|el plato blanco|den weißen Teller
a broken window|una ventana rota|ein kaputtes Fenster
the new shoes|los zapatos nuevos|die neuen Schuhe
a small boat|un barco pequeño|ein kleines Boot
the yellow shirt|la camisa amarilla|das gelbe Hemd
a long knife|un cuchillo largo|ein langes Messer
the empty box|la caja vacía|die leere Kiste
a warm blanket|una manta caliente|eine warme Decke
the silver key|la llave de plata|den silbernen Schlüssel
"""
_WHERE = """
in the garden|en el jardín|im Garten
at the market|en el mercado|auf dem Markt
in the kitchen|en la cocina|in der Küche
by the river|junto al río|am Fluss
in the church|en la iglesia|in der Kirche
on the roof|en el tejado|auf dem Dach
in the forest|en el bosque|im Wald
at school|en la escuela|in der Schule
on the beach|en la playa|am Strand
in the cellar|en el sótano|im Keller
"""
_WHEN = """
in the morning|por la mañana|am Morgen
at night|de noche|in der Nacht
on Monday|el lunes|am Montag
in winter|en invierno|im Winter
before dinner|antes de la cena|vor dem Abendessen
every week|cada semana|jede Woche
today|hoy|heute
on Saturday|el sábado|am Samstag
"""

PARTS = tuple(
    [dict(zip(LANGUAGES, row.split("|"), strict=True)) for row in part.strip().split("\n")]
    for part in (_WHO, _DOES, _WHAT, _WHERE, _WHEN)
)

_ORDER = {"en": (0, 1, 2, 3, 4), "es": (0, 1, 2, 3, 4), "de": (0, 1, 4, 3, 2)}


def text(meaning: Meaning, language: Language) -> str:
    """Return the sentence with a meaning."""
    words = [PARTS[part][meaning[part]][language] for part in _ORDER[language]]
    sentence = " ".join(words)
    return f"{sentence[0].upper()}{sentence[1:]}."


def _pool(meaning: Meaning) -> Pool:
    return "experts" if sum(meaning) % 3 else "documents"


def meanings(pool: Pool, seed: object) -> Iterator[Meaning]:
    """Yield meanings at random; no meaning is in both pools."""
    draw = random.Random(f"{pool}/{seed}")
    while True:
        meaning = tuple(draw.randrange(len(part)) for part in PARTS)
        if _pool(meaning) == pool:
            yield meaning


def near(meaning: Meaning, draw: random.Random) -> Meaning:
    """Return a meaning of the same pool that differs in one part."""
    part = draw.randrange(len(PARTS))
    rows = (row for row in range(len(PARTS[part])) if row != meaning[part])
    others = [(*meaning[:part], row, *meaning[part + 1 :]) for row in rows]
    return draw.choice([other for other in others if _pool(other) == _pool(meaning)])


def write() -> None:
    """Write questions in Spanish whose passages are in German, if they are not there.

    Each split has a file of its own, and so its own passages; all questions differ.
    """
    draw, drawn, known = random.Random(0), meanings("documents", 0), set[Meaning]()
    for split, count in QUESTIONS.items():
        lines: list[str] = []
        for meaning in drawn:
            if meaning not in known:
                known.add(meaning)
                others = [text(near(meaning, draw), "de") for _ in range(2)]
                positive = [text(meaning, "de")]
                row = {"query": text(meaning, "es"), "positive": positive, "negative": others}
                lines.append(json.dumps(row, ensure_ascii=False) + "\n")
            if len(lines) == count:
                break
        file = ROWS / split / "spanish-german.jsonl"
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(lines), encoding="utf-8")
