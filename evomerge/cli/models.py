"""The commands about models, and what there is: compare, merge, evaluate; list, schema."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli import options, terminal
from evomerge.trust.code import Permissions

if TYPE_CHECKING:
    from evomerge.merging.methods.method import Knob, Method

_COSTLY = "; costly: for `evomerge merge`, which builds once"

Listed = StrEnum("Listed", ["methods", "optimizers", "executors", "spaces", "parents"])


def compare(
    parents: Annotated[
        list[str], typer.Argument(metavar="PARENT...", help="folders, Hub ids, zoo:NAME")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what the parents were trained from")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Compare parents before a merge: what changed, which are alike."""
    from evomerge.api.models import compare as compare_models

    comparison = compare_models(parents, base)
    if as_json:
        terminal.print_json(comparison.to_dict())
        return
    title = "" if base is None else "changes of the base's weights in %, and the nearest parent"
    terminal.print_table(*comparison.rows(), title=title)
    for note in comparison.notes:
        terminal.say(note)


def merge(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="a recipe, or a mergekit config")
    ],
    out: options.OutOption,
    memory: Annotated[str, typer.Option(help="peak memory, e.g. 8GB")] = "8GB",
    shard_size: options.ShardSizeOption = "5GB",
    strict: Annotated[
        bool, typer.Option("--strict", help="refuse a mergekit file with keys that it ignores")
    ] = False,
    truncate: Annotated[
        bool,
        typer.Option(
            "--unsafe-truncate-embeddings",
            help="cut vocabularies of different sizes to the smallest one",
        ),
    ] = False,
) -> None:
    """Build one merged model on disk, piece by piece, in little memory."""
    from evomerge.export.checkpoint import merge_recipe

    allowed = {"strict": strict, "truncate": truncate}
    notes = merge_recipe(recipe, out, memory, shard_size, **allowed)
    terminal.warn(notes)
    terminal.say(f"wrote {out}")


def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="folder, Hub id, zoo:NAME or MODEL+ADAPTER")
    ],
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="the search file")],
    split: Annotated[
        options.SplitName, typer.Option(help="on which documents")
    ] = options.SplitName.test,
    show: Annotated[
        int, typer.Option(min=0, help="print this many documents with prompt, answer and target")
    ] = 0,
    set_: options.SetOption = None,
    allow_code: options.AllowCodeOption = False,
    trust_code: options.TrustCodeOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Score any model on the documents of a search."""
    from evomerge.api.models import score_model
    from evomerge.problem.resolve import folder_of, load_any
    from evomerge.problem.runs import prepare

    allowed = Permissions(allow_code, trust_code)
    problem = prepare(load_any(config, set_), folder_of(config), allowed)
    evaluation = score_model(problem, model, split, show)
    if as_json:
        terminal.print_json(evaluation.to_dict())
        return
    terminal.print_examples(evaluation.scores.examples)
    if show and not evaluation.scores.examples:
        terminal.say("there is nothing to show, since the objectives tell no answers")
    terminal.print_table(("score", f"{split} [95 %]"), evaluation.rows())
    if evaluation.note:
        terminal.say(evaluation.note)


def list_(what: Listed, as_json: options.JsonOption = False) -> None:
    """List methods, optimizers, executors, spaces or embedded parents."""
    rows_of = {Listed.methods: _methods, Listed.parents: _parents}
    rows = rows_of[what]() if what in rows_of else _kinds(what)
    if what is Listed.methods and terminal.out.is_terminal and not as_json:  # 80 columns are few
        rows = [{"name": row.pop("name"), "about": terminal.text_of(row)} for row in rows]
    terminal.print_json(rows) if as_json else terminal.print_rows(rows, "name")


def schema() -> None:
    """Print the JSON Schema of the search file."""
    from evomerge.config.schema import SearchConfig

    terminal.print_json(SearchConfig.model_json_schema())


def _methods() -> list[dict[str, Any]]:
    from evomerge.merging.methods import get_method, method_names

    rows = []
    for name in method_names():
        method = get_method(name)
        fewest, most = method.parents
        count = f"{fewest}+" if most is None else f"{fewest}-{most}"
        rows.append(
            {
                "name": name,
                "title": method.title + (_COSTLY if method.costly else ""),
                "parents": str(fewest) if fewest == most else count,
                "base": method.base,
                "knobs": [_knob(method, knob) for knob in method.knobs],
                "paper": method.paper,
            }
        )
    return rows


def _knob(method: Method, knob: Knob) -> str:
    """Return `name (scope, range, default)`, and the kind of its gradient, if it has one."""
    default = "required" if knob.default is None else f"{knob.default:g}"
    kind = "smoothed " if knob.name in method.smoothed else "exact " if method.gradients else ""
    gradient = f", {kind}gradient" if knob.is_smooth else ""
    scope = "each parent" if knob.per == "source" else "merge"
    return f"{knob.name} ({scope}, {knob.low:g}..{knob.high:g}, {default}{gradient})"


def _kinds(what: Listed) -> list[dict[str, Any]]:
    about: Mapping[str, str]
    if what is Listed.optimizers:
        from evomerge.strategy.kinds import strategy_names

        about = strategy_names()
    elif what is Listed.executors:
        from evomerge.config.executor import EXECUTORS

        about = {name: EXECUTORS.get(name).about for name in EXECUTORS.names()}
    else:
        from evomerge.config.space import ABOUT

        about = ABOUT
    return [{"name": name, "about": text} for name, text in about.items()]


def _parents() -> list[dict[str, Any]]:
    from evomerge import zoo
    from evomerge.models.checkpoint import Checkpoint
    from evomerge.models.parts import kind_of

    return [
        {
            "name": opened.reference,
            "kind": kind_of(opened),
            "architecture": (opened.config.get("architectures") or ["?"])[0],
            "layers": len(opened.decoder_stack),
            "parameters": opened.parameters,
        }
        for opened in (Checkpoint.open(zoo.path(name), f"zoo:{name}") for name in zoo.names())
    ]
