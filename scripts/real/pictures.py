"""The pictures of the showcase: things in a grid, and questions about them in L1 and L2.

L1 and L2 are the languages of the embedded models (`scripts.zoo.languages`). A picture has 32 x 32
pixels and 4 x 4 places, each empty or with a thing. Questions ask how many there are of a thing::

    <image> tom has apples . howmany now ? : 3 items
    <image> taro wa ringo motsu . ima ikutsu ? : 3 ko

In training, others ask which thing there are most of: with these, counting is learned much sooner.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias

import yaml
from PIL import Image, ImageDraw

from scripts.real.places import ROOT
from scripts.zoo.languages import L1, L2, TOPIC, Language

Scene: TypeAlias = tuple[int | None, ...]
"""What each place has, row by row: the number of a thing in `Language.things`, or nothing."""

Pool: TypeAlias = Literal["experts", "documents"]

SIDE, PLACE = 32, 8
PLACES = (SIDE // PLACE) ** 2

SPLITS = {"training": 200, "validation": 200, "test": 400}
"""lm-eval's split -> number of documents."""

_MOST = 5  # of one thing
_LONGEST = 3  # tokens; the longest answer has two and the end


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes:
        prompt: the question, with `<image>` for the picture.
    """

    scene: Scene
    prompt: str
    answer: str


@cache
def _drawn(thing: int | None, shade: int) -> Image.Image:
    """Draw the place of a thing: apples, books, coins, eggs, stones, pens, cups, shells."""
    place = Image.new("RGB", (PLACE, PLACE), (shade, shade, shade))
    draw = ImageDraw.Draw(place)
    match thing:
        case 0:
            draw.ellipse((1, 1, 6, 6), fill=(200, 30, 30))
        case 1:
            draw.rectangle((1, 1, 6, 6), fill=(30, 60, 200))
        case 2:
            draw.ellipse((2, 2, 5, 5), fill=(220, 200, 30))
        case 3:
            draw.ellipse((2, 1, 5, 6), fill=(240, 240, 230))
        case 4:
            draw.polygon(((0, 6), (2, 2), (5, 2), (7, 6)), fill=(110, 110, 110))
        case 5:
            draw.line((1, 6, 6, 1), fill=(20, 160, 60), width=2)
        case 6:
            draw.rectangle((1, 2, 6, 6), outline=(230, 120, 30), width=2)
        case 7:
            draw.polygon(((3, 1), (0, 6), (7, 6)), fill=(240, 110, 180))
    return place


def picture(scene: Scene) -> Image.Image:
    """Draw a scene; how dark its background is depends on the scene."""
    shade = 8 * (_digest(scene) % 6)
    image = Image.new("RGB", (SIDE, SIDE))
    for place, thing in enumerate(scene):
        row, column = divmod(place, SIDE // PLACE)
        image.paste(_drawn(thing, shade), (column * PLACE, row * PLACE))
    return image


def _digest(scene: Scene) -> int:
    return hashlib.blake2b(repr(scene).encode(), digest_size=8).digest()[0]


def questions(
    language: Language, pool: Pool, seed: object, counting: float = 0.6
) -> Iterator[Question]:
    """Yield questions at random; no picture is in both pools.

    Args:
        counting: share of the questions that ask how many there are of a thing.
    """
    draw = random.Random(f"{pool}/{seed}")
    while True:
        kinds = draw.sample(range(len(language.things)), draw.choice((1, 2, 3)))
        counts = draw.sample(range(1, _MOST + 1), len(kinds))
        placed = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
        scene: list[int | None] = [*placed, *[None] * (PLACES - len(placed))]
        draw.shuffle(scene)
        if (_digest(tuple(scene)) % 8 == 0) != (pool == "documents"):
            continue
        if draw.random() >= counting:
            most = language.things[kinds[counts.index(max(counts))]]
            yield Question(tuple(scene), f"<image> {language.more} ? :", most)
            continue
        name, thing = draw.choice(language.names), language.things[kinds[0]]
        if language is L1:
            story = f"{name} {language.has} {thing}"
            asked = f"{language.how_many} {language.now}"
        else:
            story = f"{name} {TOPIC} {thing} {language.has}"
            asked = f"{language.now} {language.how_many}"
        prompt = f"<image> {story} . {asked} ? :"
        yield Question(tuple(scene), prompt, f"{counts[0]} {language.counter}")


def write() -> None:
    """Write the task `pictures_l2`, how many there are of a thing, in L2.

    It is one YAML file, and one of rows for each split. All of its pictures differ, and no model is
    trained on one.
    """
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    folder = ROOT / "tasks"
    (folder / "data").mkdir(parents=True, exist_ok=True)
    drawn, seen, files = questions(L2, "documents", 0, counting=1.0), set[Scene](), {}
    for split, count in SPLITS.items():
        rows: list[dict[str, object]] = []
        while len(rows) < count:
            item = next(drawn)
            if item.scene not in seen:
                seen.add(item.scene)
                row = {"prompt": item.prompt, "answer": item.answer}
                rows.append({"picture": picture(item.scene), **row})
        files[split] = str((folder / "data" / f"pictures_l2-{split}.parquet").resolve())
        Dataset.from_list(rows).to_parquet(files[split])
    content = {
        "task": "pictures_l2",
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": files},
        "training_split": "training",
        "validation_split": "validation",
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_image": ["picture"],
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {
            "until": ["<eos>"],
            "do_sample": False,
            "max_gen_toks": _LONGEST,
        },
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": 1.0},
    }
    text = yaml.safe_dump(content, sort_keys=False)
    (folder / "pictures_l2.yaml").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
