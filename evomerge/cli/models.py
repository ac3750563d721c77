"""The commands about models: compare, export, evaluate, merge, push."""

from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli import options, terminal
from evomerge.run.folder import RunFolder
from evomerge.trust.consent import Permissions

_ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="folder, Hub id, zoo:NAME or MODEL+ADAPTER")
]


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


def export(
    directory: options.RunFolderArgument,
    out: options.OutOption,
    candidate: Annotated[
        str, typer.Option(help="`best` (the winner, or the best so far) or a number")
    ] = "best",
    dtype: Annotated[
        str | None, typer.Option(help="dtype of the weights, if not the one that was scored")
    ] = None,
    shard_size: options.ShardSizeOption = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a model that evomerge wrote there before")
    ] = False,
) -> None:
    """Write a candidate as an ordinary Hugging Face checkpoint."""
    from evomerge.export.candidate import export_candidate

    run = RunFolder(directory)
    exported = export_candidate(run, out, candidate, dtype, shard_size, overwrite=overwrite)
    terminal.warn(exported.notes)
    terminal.say(f"wrote candidate {exported.number} to {out}")
    if exported.not_in_mergekit is not None:
        terminal.say(f"there is no mergekit_config.yml: {exported.not_in_mergekit}")


def evaluate(
    model: _ModelArgument,
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
    from evomerge.problem.runs import prepare
    from evomerge.problem.search_file import folder_of, load_any

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
    from evomerge.export.recipe import merge_recipe

    allowed = {"strict": strict, "truncate": truncate}
    notes = merge_recipe(recipe, out, memory, shard_size, **allowed)
    terminal.warn(notes)
    terminal.say(f"wrote {out}")


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="an exported model")],
    repository: Annotated[str, typer.Argument(metavar="REPO_ID", help="org/name on the Hub")],
    private: Annotated[
        bool,
        typer.Option("--private/--public", help="an existing repository must be what this says"),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be uploaded, and upload nothing")
    ] = False,
) -> None:
    """Upload an exported model to the Hugging Face Hub."""
    from evomerge.export.hub import files_to_push, push_model
    from evomerge.words import size_text

    if dry_run:
        files, left_out = files_to_push(model, repository)
        rows = [(file, size_text((model / file).stat().st_size)) for file in files]
        terminal.print_table(("file", "size"), rows)
        done = f"nothing was uploaded; without --dry-run it goes to {repository}"
    else:
        url, left_out = push_model(model, repository, private=private)
        done = f"pushed to {url}"
    for name in left_out:
        terminal.say(f"{name} was not uploaded, since it names folders of this machine")
    terminal.say(done)
