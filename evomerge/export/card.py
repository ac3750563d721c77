"""The model card of a merge: its parents, its recipe, its scores, and how to repeat it.

Cards are published, so a card shows the name of a local folder, never its path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from huggingface_hub import ModelCardData

from evomerge.config.schema import SearchConfig
from evomerge.errors import without_controls
from evomerge.export.markdown import code, plain, row
from evomerge.export.metadata import card_data, hub_datasets, results_on_test
from evomerge.export.parents import Parent, common_licence
from evomerge.export.repeat import budget_of, how_to_repeat, options_of, search_file
from evomerge.models.references import split_kind
from evomerge.recipe import Recipe
from evomerge.report.figures import svg_text
from evomerge.report.recipe_picture import (
    is_path,
    knobs_of_every_layer,
    parent_letters,
    recipe_picture,
)
from evomerge.report.standings import Standings, alone, scored_as_themselves, standings
from evomerge.report.words import sampling_note
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS
from evomerge.searching.ranking import Ranking, best_of, measured
from evomerge.setup.anchored import is_winner_of_stage
from evomerge.space.paths.path import describe

CARD, PICTURE = "README.md", "recipe.svg"


@dataclass(frozen=True)
class Merge:
    """A merged model that a card is written for.

    Attributes:
        recipe: its recipe; the dtype may differ from the one that was scored.
        parents: reference -> what the card says of it: all parents of the recipe, and those that a
            search had to choose from.
        mergekit: whether `mergekit_config.yml` is written beside the card.
        allow_pickle: whether parents may have pickled weights.
    """

    recipe: Recipe
    parents: Mapping[str, Parent]
    mergekit: bool
    allow_pickle: bool = False

    @property
    def name(self) -> str:
        """Name of the model; it is the same in whichever folder the model is written."""
        return f"merge-{self.recipe.digest[:8]}"

    @property
    def used(self) -> list[Parent]:
        """The parents of the recipe."""
        return [self.parents[reference] for reference in self.recipe.parents]

    @property
    def names(self) -> dict[str, str]:
        """Reference -> published name, for all parents and members."""
        parents = {reference: parent.name for reference, parent in self.parents.items()}
        return parents | {name: name for name in self.recipe.members}


def merge_card(merge: Merge, versions: Mapping[str, str]) -> dict[str, str]:
    """Return the card of a recipe's model (`evomerge merge`), which has no scores, and its picture.

    Args:
        merge: the model.
        versions: the versions of the packages that it was made with.

    Returns:
        name of a file -> its text.
    """
    commands = [_merge_command(merge)]
    intro = f"A merge that was made by evomerge {version('evomerge')}. {_recipe_sentences(merge)}"
    data = card_data(merge.name, merge.used, mergekit=merge.mergekit)
    grams = {merge.names[name]: item for name, item in merge.recipe.grams.items()}
    repeat = how_to_repeat(commands, versions, merge.used, grams)
    path = _path(merge) if is_path(merge.recipe) else []
    return _files(merge, data, intro, path, repeat)


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
    """Return the card of a candidate of a run (`evomerge export`), and its picture.

    Args:
        merge: the model of the candidate.
        config: the run's search file.
        history: the run.
        candidate: the exported candidate. The card of the winner, or of a member of the front, has
            the run's table, and its metadata the test scores; that of another one its own scores.
        ranking: what compares the candidates of the search.
        itself: whether the model is a parent itself.
        unchanged: whether it then has its own dtype.

    Returns:
        name of a file -> its text.
    """
    objectives, best = measured(ranking), best_of(history, ranking)
    is_winner = candidate is best or candidate in history.front
    parent = merge.parents[str(candidate.label)] if itself else None
    as_scored = unchanged if itself else merge.recipe.dtype == config.dtype
    scores = candidate.scores("test") if is_winner and as_scored else None
    data = card_data(
        merge.name,
        merge.used,
        mergekit=merge.mergekit,
        datasets=hub_datasets(config),
        results=results_on_test(config, objectives, scores) if scores else (),
    )
    intro = (
        f"Candidate {candidate.number} of an evomerge {version('evomerge')} search over "
        f"{len(history.candidates)} candidates (optimizer {plain(config.optimizer.name)}, seed "
        f"{config.seed}). {_recipe_sentences(merge, parent, unchanged)}"
    )
    chosen = "" if candidate is best else f" --candidate {candidate.number}"
    dtype = "" if as_scored else f" --dtype {merge.recipe.dtype}"
    count, options, pickles = len(history.candidates), options_of(config), _pickles(merge)
    is_stage = any(map(is_winner_of_stage, merge.parents))
    search = [
        f"evomerge search search.yaml --run RUN --candidates {count}{options}",
        f"evomerge export RUN --out MODEL_DIR{chosen}{dtype}{pickles}",
    ]
    alone = "" if is_stage else "    # this model without the search"
    commands = [*([] if is_stage else search), _merge_command(merge) + alone]
    body = [
        *([] if config.space.kind == "parameters" else _path(merge)),
        *([] if as_scored else _dtype(config, merge.recipe)),
        "## Scores",
        "",
        *_sources(config),
        *(_of_run(history, ranking, merge.names) if is_winner else _of_one(candidate, ranking)),
        "",
    ]
    versions = config.frozen.versions if config.frozen else {}
    repeat = how_to_repeat(commands, versions, merge.used)
    about = [*(_stage(merge) if is_stage else _moving(merge)), *_trusting(options)]
    used = config.model_copy(update={"budget": budget_of(config, history)})
    file = search_file(used, merge.names, "" if is_stage else "search.yaml")
    return _files(merge, data, intro, body, [*repeat, *about, *file])


def _merge_command(merge: Merge) -> str:
    return f"evomerge merge evomerge_recipe.yaml --out MODEL_DIR{_pickles(merge)}"


def _pickles(merge: Merge) -> str:
    return " --allow-pickle" if merge.allow_pickle else ""


def _trusting(options: str) -> list[str]:
    """Return lines about an option that lets code of other people run."""
    if "--trust-code" not in options:
        return []
    return [
        "`--trust-code` runs the code that the search file names (tasks, objective functions): "
        "read it first.",
        "",
    ]


def _stage(merge: Merge) -> list[str]:
    """Return lines that say why no command repeats the search of a stage."""
    names = [code(item.name) for name, item in merge.parents.items() if is_winner_of_stage(name)]
    return [
        "This model was found by a stage of a search in stages, which began with the winner of an "
        f"earlier stage ({' and '.join(names)}). Its search file alone does not repeat that, so "
        "there is no command for the search; the recipe builds the model.",
        "",
    ]


def _moving(merge: Merge) -> list[str]:
    """Return lines about parents whose names may mean another model when the search is repeated."""
    kinds = ((split_kind(name)[0], parent.name) for name, parent in merge.parents.items())
    names = [code(name) for kind, name in kinds if kind]
    if not names:
        return []
    return [
        f"A search takes {' and '.join(names)} as found when it starts. If that is another model "
        "by now, repeating the search gives another result; the recipe has pins and builds this "
        "model, or names the parent that has changed.",
        "",
    ]


def _files(
    merge: Merge,
    data: ModelCardData,
    intro: str,
    body: Sequence[str],
    repeat: Sequence[str],
) -> dict[str, str]:
    """Return the texts of the card and of its picture, by file name."""
    knobs = knobs_of_every_layer(merge.recipe)
    # A picture would show one colour over the whole depth; importing matplotlib takes long.
    figure = None if knobs else recipe_picture(merge.recipe, merge.names)
    picture = [f"![The recipe: what comes from which parent]({PICTURE})", ""] if figure else []
    letters = parent_letters(merge.recipe)
    explained: set[int] = set()
    lines = [
        f"# {merge.name}",
        "",
        intro,
        "",
        *picture,
        "Parents:",
        "",
        *(
            f"- {key}: {_named(merge.parents[reference], explained)}"
            if reference in merge.parents
            else f"- {key}: {code(reference)}"
            for key, reference in letters.items()
        ),
        "",
        *([f"In every layer: {knobs}.", ""] if knobs else []),
        *body,
        *_licence(merge, letters),
        *repeat,
    ]
    text = "\n".join(lines).rstrip()
    card = f"---\n{without_controls(data.to_yaml())}\n---\n\n{text}\n"
    return {CARD: card, **({PICTURE: svg_text(figure, transparent=False)} if figure else {})}


def _named(parent: Parent, explained: set[int]) -> str:
    """Return the name of a parent; of one that is a merge itself, those of its parents too.

    Args:
        parent: the parent.
        explained: the `id` of each tuple of parents that the card has named; this one is added.
    """
    if not parent.merged_from or id(parent.merged_from) in explained:
        return code(parent.name)
    explained.add(id(parent.merged_from))
    own = ", ".join(_named(item, explained) for item in parent.merged_from)
    return f"{code(parent.name)} (a merge of {own})"


def _recipe_sentences(merge: Merge, parent: Parent | None = None, unchanged: bool = True) -> str:
    """Return the merge method, or which parent it is, and the files that have the recipe."""
    if parent is not None:
        change = "unchanged" if unchanged else f"in {merge.recipe.dtype}"
        return (
            f"It is no merge, but the parent {code(parent.name)} itself, {change}, with its own "
            f"{_own_and_lent(merge)} `evomerge_recipe.yaml` says so as a recipe."
        )
    methods = sorted({layer.method for layer in merge.recipe.every_layer()})
    members = ""
    if merge.recipe.members:
        names = " and ".join(map(code, merge.recipe.members))
        members = f" It merges earlier merges of the search ({names}), whose recipes are there too."
    mergekit = ", and for mergekit in `mergekit_config.yml`" if merge.mergekit else ""
    return (
        f"Merge method: {plain(', '.join(methods))}. The exact recipe is in `evomerge_recipe.yaml`"
        f"{mergekit}.{members} (`evomerge push` does not upload these files if they name folders "
        "of the machine where the model was made.)"
    )


def _own_and_lent(merge: Merge) -> str:
    """Return which files of a parent itself are its own, and what it has from where."""
    giver = merge.recipe.options.get("chat_template")
    if merge.recipe.tokenizer != "base":
        own, part, giver = "config", "tokenizer", merge.recipe.tokenizer
    elif giver is not None:
        own, part = "config and tokenizer", "chat template"
    else:
        return "config, tokenizer and chat template."
    source = code(merge.names[giver]) if giver in merge.names else "the merges"
    return (
        f"{own}. It has no {part} of its own: the {part} here is that of {source}, which it was "
        "scored with."
    )


def _path(merge: Merge) -> list[str]:
    """Return lines with the blocks in one line."""
    text = describe(merge.recipe)
    names = merge.names
    for reference in sorted(names, key=len, reverse=True):
        text = text.replace(f"= {reference}", f"= {names[reference]}")
    return [
        "Path through the layers (`B8-15x0.9`: layers 8 to 15 of parent B, the hidden state "
        f"multiplied by 0.9 where it enters; folded into the weights): {code(text)}",
        "",
    ]


def _dtype(config: SearchConfig, recipe: Recipe) -> list[str]:
    """Return lines that name the dtype, if it is not the one that was scored."""
    if recipe.dtype == config.dtype:
        return []
    return [f"Written in {recipe.dtype}; the scores are those of the {config.dtype} weights.", ""]


def _sources(config: SearchConfig) -> list[str]:
    """Return lines that name the tasks and task splits that the documents of each split are from.

    The split of the search (search, validation, test) comes first, then its sources. If texts were
    drawn at random, that is said, too.
    """
    known = config.frozen.sources if config.frozen else {}
    note = sampling_note(config.frozen.sampled) if config.frozen else None
    listed = [
        f"{split}: {', '.join(map(code, dict.fromkeys(known[split].values())))}"
        for split in SPLITS
        if split in known
    ]
    lines = [f"Sources of the documents ({'; '.join(listed)}).", ""] if listed else []
    return lines + ([plain(note), ""] if note is not None else [])


def _of_one(candidate: Candidate, ranking: Ranking) -> list[str]:
    """Return lines with the scores of a candidate that is not the winner."""
    left_out = "This candidate is not the winner of its run, so the run's table is left out."
    table = alone(candidate, ranking)
    if not table.rows:
        return [f"{left_out} It has no scores."]
    part = " It was scored on a part of the search documents only." if candidate.is_estimate else ""
    return [
        f"{left_out} Its own scores, with 95 % intervals where they are known, are those that the "
        f"search has compared, so they are too high by selection if it was picked for them.{part}",
        "",
        *_table(table, {}),
    ]


def _of_run(history: History, ranking: Ranking, names: Mapping[str, str]) -> list[str]:
    """Return lines with the standings of a run."""
    table, note = standings(history, ranking), scored_as_themselves(history, names)
    return [
        "Scores with 95 % intervals, where they are known. Candidates were compared on the search "
        "documents, the winner was chosen on the validation documents, and nothing was chosen on "
        "the test documents.",
        "",
        *_table(table, names),
        *(["", plain(note)] if note else []),
    ]


def _table(table: Standings, names: Mapping[str, str]) -> list[str]:
    """Return standings as a Markdown table: a row for each score and model, the test first."""
    splits = tuple(reversed(SPLITS))
    lines = [
        row(("score", "model", *splits)),
        "|---" * (len(splits) + 2) + "|",
    ]
    for column in table.columns:
        factor = table.factor(column)
        score = f"{column} in %" if factor == 100 else column
        for model in table.rows:
            found = [model.estimates.get((split, column)) for split in splits]
            cells = [" ".join(item.texts(factor)).strip() if item else "-" for item in found]
            label = names.get(model.label, model.label)
            lines.append(row((score, label, *cells)))
    return lines


def _licence(merge: Merge, letters: Mapping[str, str]) -> list[str]:
    """Return the section about the licence; nothing is concluded from cards that do not agree."""
    licence = common_licence(merge.used)
    if licence is not None:
        text = (
            f"The cards of all parents name the licence {code(licence.label)}; so does this card."
        )
        return ["## Licence", "", text, ""]
    said = [
        f"- {letter}: " + ", ".join(code(item.label) if item else "not known" for item in licences)
        for letter, licences in (
            (letter, merge.parents[reference].licences)
            for letter, reference in letters.items()
            if reference in merge.parents
        )
    ]
    return [
        "## Licence",
        "",
        "**This card names no licence**, since the cards of the parents name different ones, or "
        "not all of them name one. Read the licences of the parents before you use or publish this "
        "model. In the cards:",
        "",
        *said,
        "",
    ]
