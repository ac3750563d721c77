"""The model card of a merge: its parents, its recipe, its scores, and how to make it again.

`card.md.jinja` is the card. Cards are published, so a card shows the name of a local folder, never
its path; and texts from files are escaped in it, so that they are shown as they are. Parents have
their Hub ids, or the last part of the path of a local folder: a folder above a model may have the
name of a user. Licences are what the parents' own cards say (`README.md` in their folders).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, NamedTuple, TypeAlias

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Template

from evomerge.config.record import Record
from evomerge.errors import printable, without_controls
from evomerge.evaluation.tasks.info import sampling_note
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import is_from_hub
from evomerge.models.parts import kind_of
from evomerge.models.references import hub_id, split_adapter
from evomerge.recipe import Recipe
from evomerge.report import recipe_picture as pictures
from evomerge.report.also import kept_measures, with_losses
from evomerge.report.pictures import svg_text
from evomerge.report.tables import alone, standings
from evomerge.run.history import Candidate, History
from evomerge.run.ranking import Ranking, best_of, measured
from evomerge.scores import Objective, Scores

CARD, PICTURE = "README.md", "recipe.svg"

_SIGNS = re.compile(r"[\\`*<>|~$]|\](?=[(\[:])|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
"""What has a meaning in a line of Markdown, such as `_`, but not between letters or digits."""

_LINKS = (("://", ":&#47;/"), ("www.", "www&#46;"))  # become links without any sign around them

_PATH = re.compile(r"(?<![\w.~/-])(~|\.{1,2})?(/[^\s/:+,;='\"()\[\]{}]+)+/?")
"""A path that begins in the root, the home folder or this one; no address of the web."""

Licence: TypeAlias = Mapping[str, str]
"""The keys of a card that say its licence: `license`, and of `other` its name and link."""

_FRONT_MATTER = re.compile(r"\s*---[\r\n]+(.*?)[\r\n]+---(?:[\r\n]|\Z)", re.DOTALL)
"""YAML between two lines `---` at the beginning of a card."""


class Parent(NamedTuple):
    """A parent as a card names it, with its id if it came from the Hub.

    `licences` are those of the model and of its adapter, each None if its card does not say it.
    """

    name: str
    hub_id: str | None
    licences: tuple[Licence | None, ...]


@dataclass(frozen=True)
class Merge:
    """A merged model that a card is written for.

    `parents` are, by reference, those of the recipe, and those that a search had to choose from.
    `mergekit`: there is a `mergekit_config.yml`. `task`: the Hub's name of what the model does.
    """

    recipe: Recipe
    parents: Mapping[str, Parent]
    mergekit: bool
    task: str

    @property
    def name(self) -> str:
        """Name of the model; it is the same in whichever folder the model is written."""
        return f"merge-{self.recipe.digest[:8]}"

    @property
    def mergekit_command(self) -> str:
        """The command that builds `mergekit_config.yml`; mergekit merges adapters into a folder."""
        parents = [split_adapter(name, Path.cwd()) for name in self.recipe.parents]
        adapters = " --lora-merge-cache CACHE" if any(adapter for *_, adapter in parents) else ""
        return f"mergekit-yaml mergekit_config.yml DIR{adapters}"

    @property
    def names(self) -> dict[str, str]:
        """Reference of a parent -> published name."""
        return {reference: parent.name for reference, parent in self.parents.items()}


def search_card(
    merge: Merge,
    record: Record,
    history: History,
    candidate: Candidate,
    ranking: Ranking,
    *,
    itself: bool = False,
    unchanged: bool = True,
    is_plain: bool = False,
) -> dict[str, str]:
    """Return the card of a candidate of a run (`evomerge export`) and its picture.

    The card of the winner, or of a member of the front, has the run's table and verdict, and its
    metadata the test scores; that of another candidate its own scores. `itself`: the model is a
    parent itself, which is `unchanged` if it has its own dtype. `is_plain`: it has a chat template,
    with which prompts were not made.
    """
    config, best = record.config, best_of(history, ranking)
    is_winner = candidate is best or candidate in history.front
    as_scored = unchanged if itself else merge.recipe.dtype == config.dtype
    scores = candidate.scores("test") if is_winner and as_scored else None
    table = standings(history, ranking) if is_winner else alone(candidate, ranking)
    table = replace(table, published=merge.names)
    kept = kept_measures(record.also, history, ranking, config.base) if is_winner else []
    told = with_losses(table.verdict(best), kept).text if is_winner else ""
    search = {
        "candidate": candidate,
        "config": config,
        "count": len(history.candidates),
        "scored_dtype": "" if as_scored or merge.recipe.dtype == config.dtype else config.dtype,
        "is_winner": is_winner,
        "verdict": _PATH.sub(lambda found: PurePath(found[0]).name, told),
        "sampling_note": sampling_note(record.sampled),
        "is_plain": is_plain,
        "splits": tuple(reversed(table.splits)),
        "table": table,
    }
    results = results_on_test(record, merge.task, measured(ranking), scores) if scores else ()
    parent = merge.parents[str(candidate.label)].name if itself else None
    change = "unchanged" if unchanged else f"in {merge.recipe.dtype}"
    named = {"search": search, "itself": parent, "change": change}
    return merge_card(merge, record.versions, results, **named)


def merge_card(
    merge: Merge, versions: Mapping[str, str], results: Sequence[EvalResult] = (), **values: Any
) -> dict[str, str]:
    """Return the card of a recipe's model and its picture, by file name.

    `versions` are of the packages that made the model; `values` are more for the template.
    """
    recipe = merge.recipe
    letters, knobs = pictures.parent_letters(recipe), pictures.knobs_of_every_layer(recipe)
    # A picture would show one colour over the whole depth; importing matplotlib takes long.
    figure = None if knobs else pictures.recipe_picture(recipe, merge.names)
    parents = {key: merge.parents[name] for key, name in letters.items()}
    used = [merge.parents[reference] for reference in recipe.parents]
    models = list(dict.fromkeys(item.hub_id for item in used if item.hub_id))
    licence: Any = common_licence(used) or {}
    data = ModelCardData(
        base_model=models or None,
        base_model_relation="merge" if models else None,
        eval_results=list(results) or None,
        library_name="sentence-transformers" if merge.task == SENTENCES else "transformers",
        model_name=merge.name if results else None,
        pipeline_tag=merge.task,
        tags=["merge", "evomerge", *(["mergekit"] if merge.mergekit else [])],
        **licence,
    )
    # As `ModelCard.from_template` does it, whose import takes as long as a small merge.
    template = Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    text = Template(template).render(
        card_data=data.to_yaml(),
        merge=merge,
        version=version("evomerge"),
        methods=", ".join(sorted({layer.method for layer in recipe.every_layer()})),
        picture=PICTURE if figure else "",
        parents=[(key, code(parent.name)) for key, parent in parents.items()],
        knobs=knobs,
        path=pictures.path_text(recipe, merge.names) if pictures.is_path(recipe) else "",
        licence=licence.get("license_name") or licence.get("license"),
        versions=", ".join(f"{package} {number}" for package, number in versions.items()),
        plain=plain,
        code=code,
        **values,
    )
    card = f"{without_controls(text).rstrip()}\n"
    return {CARD: card, **({PICTURE: svg_text(figure, transparent=False)} if figure else {})}


def plain(text: str) -> str:
    """Return a text that Markdown shows as it is, on one line; also in a cell of a table."""
    shown = _SIGNS.sub(r"\\\g<0>", printable(text, len(text)))
    for begin, harmless in _LINKS:
        shown = shown.replace(begin, harmless)
    return shown


def code(text: str) -> str:
    """Return a text as code in a line of Markdown; not for a cell of a table."""
    shown = printable(text, len(text)).strip() or " "
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    space = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{space}{shown}{space}{fence}"


SENTENCES = "sentence-similarity"
"""The Hub's name of the task of sentence encoders, which sentence-transformers loads."""

_TAGS = {
    "sentence encoder": SENTENCES,
    "encoder": "feature-extraction",
    "masked language model": "fill-mask",
    "classifier of texts": "text-classification",
    "classifier of tokens": "token-classification",
    "reward model": "text-classification",
    "causal language model that sees": "image-text-to-text",
    "causal language model that sees and hears": "image-text-to-text",
    "causal language model that hears": "audio-text-to-text",
}
"""Kind of a model -> what the Hub calls its task, if that is not to generate text."""


def task_of(host: Checkpoint) -> str:
    """Return the Hub's name of the task (`pipeline_tag`) of the merges of a host."""
    return _TAGS.get(kind_of(host), "text-generation")


def results_on_test(
    record: Record, task_type: str, objectives: Sequence[Objective], scores: Scores
) -> list[EvalResult]:
    """Return the scores on test documents as the Hub's `model-index`; finite ones only."""
    results = []
    for objective in objectives:
        task, value = objective.task, scores.aggregates[objective.key]
        if objective.is_exact or not math.isfinite(value):
            continue
        dataset, documents = record.datasets.get("test", {}).get(task), scores.fidelity.get(task)
        count = f" on {documents} test documents" if documents else " on test documents"
        results.append(
            EvalResult(
                task_type=task_type,
                task_name=task,
                dataset_type=dataset.id if dataset else task,
                dataset_name=task,
                dataset_config=dataset.config if dataset else None,
                dataset_split=(dataset and dataset.split) or "test",
                metric_type=objective.metric.partition(",")[0],
                metric_name=f"{task} {objective.metric}{count}",
                metric_value=value,
            )
        )
    return results


def describe_parents(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Parent]:
    """Return what a card says of the parents, all with different names: reference -> parent."""
    found: dict[str, Parent] = {}
    for reference, checkpoint in checkpoints.items():
        model, plus, adapter = split_adapter(reference, Path.cwd())
        if not is_from_hub(checkpoint.folder) and not model.startswith("zoo:"):
            model = Path(model).absolute().name or "model"
        if checkpoint.adapter is not None and not is_from_hub(checkpoint.adapter):
            adapter = Path(adapter).absolute().name or "adapter"
        plain = name = f"{model}{plus}{adapter}"
        number = 1
        while any(name == other.name for other in found.values()):
            number += 1
            name = f"{plain} ({number})"
        hub = hub_id(reference) if is_from_hub(checkpoint.folder) else None
        folders = [folder for folder in (checkpoint.folder, checkpoint.adapter) if folder]
        found[reference] = Parent(name, hub, tuple(map(_licence, folders)))
    return found


def common_licence(parents: Iterable[Parent]) -> Licence | None:
    """Return the licence that the cards of all parents name; None if they do not agree."""
    first, *others = (licence for parent in parents for licence in parent.licences)
    return first if all(item == first for item in others) else None


def _licence(folder: Path) -> Licence | None:
    """Return what the card in a folder says, if it can be read and names one licence."""
    try:
        block = _FRONT_MATTER.match((folder / "README.md").read_text(encoding="utf-8"))
        # No card needs aliases, and a few of them can stand for gigabytes.
        if block is None or any(isinstance(item, yaml.AliasToken) for item in yaml.scan(block[1])):
            return None
        card = yaml.safe_load(block[1])
        key, name, link = (card.get(part) for part in ("license", "license_name", "license_link"))
    except Exception:  # what others have written may be damaged in any way; then it says nothing
        return None
    if isinstance(key, list) and len(key) == 1:
        key = key[0]
    if not isinstance(key, str) or (key.lower() in ("", "unknown", "other") and not name):
        return None
    texts = {"license": key.lower(), "license_name": name, "license_link": link}
    return {part: printable(item) for part, item in texts.items() if isinstance(item, str) and item}
