"""The model card of an exported merge: its parents, how it was found, and its scores.

Cards are published, so a card shows the name of a local folder, never its full path.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import yaml

from evomerge.config.schema import SearchConfig
from evomerge.models.references import hub_id
from evomerge.recipe import Recipe
from evomerge.report.names import short_names
from evomerge.report.standings import standings
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS, Objective
from evomerge.searching.ranking import WeightedSum, best_of
from evomerge.space.paths.path import describe


def model_card(
    config: SearchConfig,
    history: History,
    candidate: Candidate,
    recipe: Recipe,
    objectives: Sequence[Objective],
    *,
    mergekit: bool,
) -> str:
    """Return the card as Markdown with the Hub's metadata in front.

    Args:
        config: the run's search file.
        history: the run.
        candidate: the exported candidate.
        recipe: its recipe; the dtype may differ from the one that was scored.
        objectives: the objectives of the search.
        mergekit: whether `mergekit_config.yml` is written beside the card.
    """
    metadata: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "evomerge", *(["mergekit"] if mergekit else [])],
    }
    models = dict.fromkeys(filter(None, map(hub_id, recipe.parents)))
    if models:
        metadata |= {"base_model": list(models), "base_model_relation": "merge"}
    names = short_names([*recipe.parents, *(item.name for item in history.baselines)])
    methods = sorted({layer.method for layer in recipe.every_layer()})
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False).strip(),
        "---",
        "",
        "# Merged model",
        "",
        f"Candidate {candidate.number} of an evomerge {version('evomerge')} search over "
        f"{len(history.candidates)} candidates (optimizer {config.optimizer.name}, seed "
        f"{config.seed}). Merge method: {', '.join(methods)}. The exact recipe is in "
        "`evomerge_recipe.yaml`"
        + (", and for mergekit in `mergekit_config.yml`." if mergekit else "."),
        "",
        "Parents:",
        "",
        *(f"- `{names[reference]}`" for reference in recipe.parents),
        "",
        *_path(config, recipe, names),
        *_dtype(config, recipe),
        *_sources(config),
        *_table(history, candidate, objectives, names),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _path(config: SearchConfig, recipe: Recipe, names: Mapping[str, str]) -> list[str]:
    """Return lines with the path through the layers, if the search was for a path."""
    if config.space.kind == "parameters":
        return []
    text = describe(recipe)
    for reference in sorted(names, key=len, reverse=True):
        text = text.replace(f"= {reference}", f"= {names[reference]}")
    return [
        "Path through the layers (`B8-15x0.9`: layers 8 to 15 of parent B, the hidden state "
        f"multiplied by 0.9 where it enters; folded into the weights): `{text}`",
        "",
    ]


def _dtype(config: SearchConfig, recipe: Recipe) -> list[str]:
    """Return lines that name the dtype, if it is not the one that was scored."""
    if recipe.dtype == config.dtype:
        return []
    return [f"Written in {recipe.dtype}; the scores are those of the {config.dtype} weights.", ""]


def _sources(config: SearchConfig) -> list[str]:
    """Return lines that name the tasks and task splits that the documents of each split are from.

    The split of the search (search, validation, test) comes first, then its sources.
    """
    known = config.frozen.sources if config.frozen else {}
    listed = [
        f"{split}: {', '.join(f'`{source}`' for source in dict.fromkeys(known[split].values()))}"
        for split in SPLITS
        if split in known
    ]
    return [f"Sources of the documents ({'; '.join(listed)}).", ""] if listed else []


def _table(
    history: History,
    candidate: Candidate,
    objectives: Sequence[Objective],
    names: Mapping[str, str],
) -> list[str]:
    """Return the standings as a Markdown table; for another candidate than the winner, a note."""
    if best_of(history, WeightedSum(objectives)) is not candidate:
        return ["This candidate is not the winner of its run, so the run's table is left out."]
    table = standings(history, objectives)
    columns = [(split, column) for column in table.columns for split in SPLITS]
    lines = [
        "Scores with 95 % intervals, where they are known. Candidates were compared on the search "
        "documents, the winner was chosen on the validation documents, and nothing was chosen on "
        "the test documents.",
        "",
        "| model | " + " | ".join(f"{column} ({split})" for split, column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in table.rows:
        cells = []
        for key in columns:
            item = row.estimates.get(key)
            cells.append(" ".join(item.texts(1.0, ".4f")).strip() if item else "-")
        label = names.get(row.label, row.label).replace("|", "\\|")
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return lines
