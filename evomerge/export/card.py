"""The model card of a merge: its parents, its recipe, its scores, and how to repeat it.

`card.md.jinja` is the card. Cards are published, so a card shows the name of a local folder, never
its path; and texts from files are escaped in it, so that they are shown as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Template

from evomerge.config.schema import Frozen, SearchConfig
from evomerge.errors import printable, without_controls
from evomerge.export.metadata import (
    SENTENCES,
    SPEECH,
    card_data,
    hub_datasets,
    results_on_test,
    search_file,
)
from evomerge.export.parents import Parent, common_licence
from evomerge.recipe import Recipe
from evomerge.report.figures import svg_text
from evomerge.report.recipe_picture import (
    is_path,
    knobs_of_every_layer,
    parent_letters,
    path_text,
    recipe_picture,
)
from evomerge.report.standings import alone, scored_as_themselves, standings
from evomerge.report.verdict import lost
from evomerge.report.words import sampling_note
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS
from evomerge.searching.ranking import Ranking, best_of, measured

CARD, PICTURE = "README.md", "recipe.svg"

_TEMPLATE = Path(__file__).with_name("card.md.jinja")

_SIGNS = re.compile(r"[\\`*<>|~$]|\](?=[(\[:])|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
"""What has a meaning in a line of Markdown, such as `_`, but not between letters or digits."""

_LINKS = (("://", ":&#47;/"), ("www.", "www&#46;"))  # become links without any sign around them


def _of_classifier(head: str, last: str) -> list[str]:
    kind = f"AutoModelFor{head}Classification"
    return [
        f"from transformers import AutoTokenizer, {kind}",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("MODEL_DIR")',
        f'model = {kind}.from_pretrained("MODEL_DIR")',
        'logits = model(**tokenizer("a text", return_tensors="pt")).logits[0].tolist()',
        last,
    ]


_USAGE = {
    SENTENCES: [
        "from sentence_transformers import SentenceTransformer",
        "",
        'model = SentenceTransformer("MODEL_DIR")',
        'embeddings = model.encode(["one text", "another text"])',
        "print(model.similarity(embeddings, embeddings))",
    ],
    "text-classification": _of_classifier(
        "Sequence", "print(dict(zip(model.config.id2label.values(), logits)))"
    ),
    SPEECH: [
        "from transformers import pipeline",
        "",
        f'transcribe = pipeline("{SPEECH}", "MODEL_DIR")',
        'print(transcribe("audio.wav")["text"])',
    ],
    "token-classification": _of_classifier(
        "Token", "print([model.config.id2label[row.index(max(row))] for row in logits])"
    ),
}
"""The Hub's name of a task -> a program that uses a model for it."""

_SEQ2SEQ = [
    "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
    "",
    'tokenizer = AutoTokenizer.from_pretrained("MODEL_DIR")',
    'model = AutoModelForSeq2SeqLM.from_pretrained("MODEL_DIR")',
    'tokens = model.generate(**tokenizer("a text", return_tensors="pt"), max_new_tokens=50)[0]',
    "print(tokenizer.decode(tokens, skip_special_tokens=True))",
]
"""A program that uses an encoder-decoder, for which transformers 5 has no pipeline."""


@dataclass(frozen=True)
class Merge:
    """A merged model that a card is written for.

    `parents` says of a reference what the card says of it: of all parents of the recipe, and of
    those that a search had to choose from. `mergekit`: there is a `mergekit_config.yml`. `task`:
    the Hub's name of what the model does. `encodes`: it is an encoder-decoder.
    """

    recipe: Recipe
    parents: Mapping[str, Parent]
    mergekit: bool
    task: str
    encodes: bool = False

    @property
    def name(self) -> str:
        """Name of the model; it is the same in whichever folder the model is written."""
        return f"merge-{self.recipe.digest[:8]}"

    @property
    def usage(self) -> list[str]:
        """The lines of a program that uses the model; none: it is used as any language model."""
        return _USAGE.get(self.task, _SEQ2SEQ if self.encodes else [])

    @property
    def used(self) -> list[Parent]:
        """The parents of the recipe."""
        return [self.parents[reference] for reference in self.recipe.parents]

    @property
    def names(self) -> dict[str, str]:
        """Reference of a parent -> published name."""
        return {reference: parent.name for reference, parent in self.parents.items()}


def merge_card(merge: Merge, versions: Mapping[str, str]) -> dict[str, str]:
    """Return the card of a recipe's model and its picture: file -> text.

    `versions`: package -> version, of those that have written the model.
    """
    return _files(
        merge,
        card_data(merge.name, merge.task, merge.used, mergekit=merge.mergekit),
        versions,
        path=path_text(merge.recipe, merge.names) if is_path(merge.recipe) else "",
        commands=[_merge_command(merge)],
    )


def search_card(
    merge: Merge,
    config: SearchConfig,
    history: History,
    candidate: Candidate,
    ranking: Ranking,
    *,
    itself: bool = False,
    unchanged: bool = True,
) -> dict[str, str]:
    """Return the card of a candidate of a run (`evomerge export`) and its picture: file -> text.

    The card of the winner, or of a member of the front, has the run's table, and its metadata the
    test scores; that of another candidate its own scores. `itself`: the model is a parent itself,
    which is `unchanged` if it has its own dtype.
    """
    frozen, best = config.frozen or Frozen(), best_of(history, ranking)
    is_winner = candidate is best or candidate in history.front
    as_scored = unchanged if itself else merge.recipe.dtype == config.dtype
    scores = candidate.scores("test") if is_winner and as_scored else None
    options, count = _options(config), len(history.candidates)
    chosen = "" if candidate is best else f" --candidate {candidate.number}"
    dtype = "" if as_scored else f" --dtype {merge.recipe.dtype}"
    table = standings(history, ranking) if is_winner else alone(candidate, ranking)
    commands = [
        f"evomerge search search.yaml --run RUN --candidates {count}{options}",
        f"evomerge export RUN --out MODEL_DIR{chosen}{dtype}",
        f"{_merge_command(merge)}    # this model without the search",
    ]
    if table.is_study:
        del commands[0]  # nobody else has the scores
    sources = (
        f"{split}: {', '.join(map(code, dict.fromkeys(frozen.sources[split].values())))}"
        for split in SPLITS
        if frozen.sources.get(split)
    )
    search = {
        "candidate": candidate,
        "config": config,
        "count": count,
        "scored_dtype": "" if as_scored or merge.recipe.dtype == config.dtype else config.dtype,
        "sources": "; ".join(sources),
        "sampling_note": sampling_note(frozen.sampled),
        "is_winner": is_winner,
        "splits": tuple(reversed(table.splits)),
        "table": table,
        "lost": lost(table, merge.names),
        "note": scored_as_themselves(history, merge.names) if is_winner else None,
        "trusts_code": "--trust-code" in options,
        "file": search_file(config, history, merge.names),
    }
    data = card_data(
        merge.name,
        merge.task,
        merge.used,
        mergekit=merge.mergekit,
        datasets=hub_datasets(config),
        results=results_on_test(config, merge.task, measured(ranking), scores) if scores else (),
    )
    return _files(
        merge,
        data,
        frozen.versions,
        search=search,
        path="" if config.space.kind == "parameters" else path_text(merge.recipe, merge.names),
        itself=merge.parents[str(candidate.label)] if itself else None,
        change="unchanged" if unchanged else f"in {merge.recipe.dtype}",
        commands=commands,
    )


def _files(
    merge: Merge, data: ModelCardData, versions: Mapping[str, str], **values: Any
) -> dict[str, str]:
    """Return the texts of the card and of its picture, by file name."""
    recipe = merge.recipe
    letters, knobs = parent_letters(recipe), knobs_of_every_layer(recipe)
    # A picture would show one colour over the whole depth; importing matplotlib takes long.
    figure = None if knobs else recipe_picture(recipe, merge.names)
    parents = {key: merge.parents[name] for key, name in letters.items()}
    # As `ModelCard.from_template` does it, whose import takes as long as a small merge.
    text = Template(_TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=data.to_yaml(),
        merge=merge,
        version=version("evomerge"),
        methods=", ".join(sorted({layer.method for layer in recipe.every_layer()})),
        picture=PICTURE if figure else "",
        parents=[(key, code(parent.name)) for key, parent in parents.items()],
        knobs=knobs,
        licence=common_licence(merge.used),
        licences=[
            (key, ", ".join(code(item.label) if item else "not known" for item in parent.licences))
            for key, parent in parents.items()
        ],
        versions=", ".join(f"{package} {number}" for package, number in versions.items()),
        plain=plain,
        code=code,
        block=block,
        **values,
    )
    card = f"{without_controls(text).rstrip()}\n"
    return {CARD: card, **({PICTURE: svg_text(figure, transparent=False)} if figure else {})}


def _merge_command(merge: Merge) -> str:
    return "evomerge merge evomerge_recipe.yaml --out MODEL_DIR"


def _options(config: SearchConfig) -> str:
    """Return the options with which the search of a run is allowed to do what it has done."""
    from evomerge.evaluation.tasks.functions import is_function

    frozen = config.frozen or Frozen()
    given = {
        "--allow-code": frozen.allow_code,
        "--trust-code": frozen.trust_code or any(map(is_function, config.tasks)),
    }
    return "".join(f" {option}" for option, is_given in given.items() if is_given)


def plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line; also in a cell of a table."""
    shown = _SIGNS.sub(r"\\\g<0>", printable(text, len(text)))
    for begin, harmless in _LINKS:
        shown = shown.replace(begin, harmless)
    return shown


def code(text: str) -> str:
    """Return a text as code in a line of Markdown; not for a cell of a table."""
    shown = printable(text, len(text)).strip() or " "
    fence = "`" * (1 + _longest_run(shown))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


def block(lines: Sequence[str], language: str = "") -> str:
    """Return lines as a block of code; nothing in them ends the block."""
    fence = "`" * max(3, 1 + _longest_run("\n".join(lines)))
    return "\n".join([f"{fence}{language}", *map(without_controls, lines), fence])


def _longest_run(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)
