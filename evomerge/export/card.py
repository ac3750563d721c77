"""The model card of an exported merge: what it is made of, how it was found, how good it is."""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from evomerge import __version__
from evomerge.config.schema import SearchConfig
from evomerge.recipe import Recipe
from evomerge.report.standings import standings
from evomerge.run.history import Candidate, History
from evomerge.scores import SPLITS, Objective
from evomerge.search.ranking import WeightedSum, best_of
from evomerge.space.paths.path import describe


def model_card(
    config: SearchConfig,
    history: History,
    candidate: Candidate,
    recipe: Recipe,
    objectives: Sequence[Objective],
) -> str:
    """Return the card as Markdown with the Hub's metadata in front."""
    hub = [name for name in recipe.parents if not name.startswith((".", "/", "~", "zoo:"))]
    metadata: dict[str, object] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["merge", "evomerge", *(["mergekit"] if config.space.kind == "parameters" else [])],
    }
    if hub:
        models = [name.split("@")[0] for name in hub]
        metadata |= {"base_model": models, "base_model_relation": "merge"}
    methods = sorted({layer.method for layer in recipe.every_layer()})
    lines = [
        "---",
        yaml.safe_dump(metadata, sort_keys=False).strip(),
        "---",
        "",
        "# Merged model",
        "",
        f"Candidate {candidate.number} of an evomerge {__version__} search over "
        f"{len(history.candidates)} candidates (optimizer {config.optimizer.name}, seed "
        f"{config.seed}). Merge method: {', '.join(methods)}. The exact recipe is in "
        "`evomerge_recipe.yaml`"
        + (
            "."
            if config.space.kind != "parameters"
            else ", and for mergekit in `mergekit_config.yml`."
        ),
        "",
        "Parents:",
        "",
        *(f"- `{name}`" for name in recipe.parents),
        "",
        *_path(config, recipe),
        *_dtype(config, recipe),
        *_sources(config),
        *_table(history, candidate, objectives),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _path(config: SearchConfig, recipe: Recipe) -> list[str]:
    """Say which layers follow each other, where that was searched."""
    if config.space.kind == "parameters":
        return []
    return [
        "Path through the layers (`B8-15x0.9`: layers 8 to 15 of parent B, the hidden state "
        f"multiplied by 0.9 where it enters; folded into the weights): `{describe(recipe)}`",
        "",
    ]


def _dtype(config: SearchConfig, recipe: Recipe) -> list[str]:
    """Say where the weights are not those that were scored."""
    if recipe.dtype == config.dtype:
        return []
    return [f"Written in {recipe.dtype}; the scores are those of the {config.dtype} weights.", ""]


def _sources(config: SearchConfig) -> list[str]:
    """Say which tasks and splits the documents are of."""
    known = config.frozen.sources if config.frozen else {}
    told = [
        f"{split}: {', '.join(f'`{source}`' for source in dict.fromkeys(known[split].values()))}"
        for split in SPLITS
        if split in known
    ]
    return [f"Documents by task and split ({'; '.join(told)}).", ""] if told else []


def _table(history: History, candidate: Candidate, objectives: Sequence[Objective]) -> list[str]:
    if best_of(history, WeightedSum(objectives)) is not candidate:
        return ["This candidate is not the run's winner; its scores are in the run."]
    table = standings(history, objectives)
    columns = [(split, column) for column in table.columns for split in SPLITS]
    lines = [
        "Scores with 95 % intervals. Candidates were compared on the search documents, the winner "
        "was chosen on the validation documents, and nothing was chosen on the test documents.",
        "",
        "| model | " + " | ".join(f"{column} ({split})" for split, column in columns) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    for row in table.rows:
        cells = []
        for key in columns:
            item = row.estimates.get(key)
            cells.append(f"{item.value:.4f} [{item.low:.4f}, {item.high:.4f}]" if item else "-")
        lines.append(f"| {row.label} | " + " | ".join(cells) + " |")
    return lines
