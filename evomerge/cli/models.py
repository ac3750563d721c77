"""The commands about single models: export, evaluate, merge, extract, push."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import terminal
from evomerge.cli.options import (
    AllowCodeOption,
    AllowPickleOption,
    JsonOption,
    OutOption,
    RunFolderArgument,
    ShardSizeOption,
    SplitName,
    TrustCodeOption,
    permissions,
)
from evomerge.errors import InputError
from evomerge.run.folder import RunFolder

if TYPE_CHECKING:
    from evomerge.export.adapter import WrittenAdapter

_Form = StrEnum("_Form", ["checkpoint", "adapter"])
_AsOption = Annotated[
    _Form, typer.Option("--as", help="what to write; adapter: a LoRA adapter of the base, for PEFT")
]
_RankOption = Annotated[
    int | None,
    typer.Option(help="with `--as adapter`: its largest rank; else the sum of the parents' ranks"),
]
_ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="folder, Hub id, zoo:NAME, run:DIR or MODEL+ADAPTER")
]


def export(
    directory: RunFolderArgument,
    out: OutOption,
    candidate: Annotated[
        str, typer.Option(help="`best` (the winner, or the best so far) or a number")
    ] = "best",
    dtype: Annotated[
        str | None, typer.Option(help="dtype of the weights, if not the one that was scored")
    ] = None,
    form: _AsOption = _Form.checkpoint,
    rank: _RankOption = None,
    shard_size: ShardSizeOption = "5GB",
    allow_pickle: AllowPickleOption = False,
) -> None:
    """Write a candidate as an ordinary Hugging Face checkpoint, or as an adapter."""
    if _is_adapter(form, rank, {"--dtype": dtype is not None, "--shard-size": shard_size != "5GB"}):
        from evomerge.export.adapter import export_adapter

        run = RunFolder(directory)
        _say_adapter(out, export_adapter(run, out, candidate, rank, allow_pickle=allow_pickle))
        return
    from evomerge.export.candidate import export_candidate

    exported = export_candidate(
        RunFolder(directory), out, candidate, dtype, shard_size, allow_pickle=allow_pickle
    )
    terminal.warn(exported.notes)
    terminal.say(f"wrote candidate {exported.number} to {out}")
    if exported.not_in_mergekit is not None:
        terminal.say(f"there is no mergekit_config.yml: {exported.not_in_mergekit}")


def evaluate(
    model: _ModelArgument,
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="the search file")],
    split: Annotated[SplitName, typer.Option(help="on which documents")] = SplitName.test,
    show: Annotated[
        int, typer.Option(min=0, help="print this many documents with prompt, answer and target")
    ] = 0,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    trust_code: TrustCodeOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score any model on the documents of a search."""
    from dataclasses import asdict

    from evomerge.report.confidence import factor_of, intervals
    from evomerge.report.words import sampling_note
    from evomerge.searching.ranking import measured
    from evomerge.setup.runs import load_any, prepare
    from evomerge.setup.search import evaluate as evaluate_model
    from evomerge.setup.task_digests import sampled

    allowed = permissions(allow_pickle, allow_code, trust_code)
    checked = prepare(load_any(config), config.parent, allowed)
    scores = evaluate_model(checked, model, split, show)
    estimates = intervals(measured(checked.ranking), scores)
    if as_json:
        plain = {key: item.to_dict() for key, item in estimates.items()}
        answer = {"model": model, "split": split, "documents": scores.fidelity, "scores": plain}
        examples = [asdict(item) for item in scores.examples]
        terminal.print_json({**answer, "examples": examples})
        return
    terminal.print_examples(scores.examples)
    rows = [(k, terminal.estimate(v, factor_of([v.value], k))) for k, v in estimates.items()]
    terminal.print_table(("score", f"{split} [95 %]"), rows)
    if note := sampling_note(sampled(checked.config, checked.evaluator)):
        terminal.say(note)


def merge(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="a recipe, or a mergekit config")
    ],
    out: OutOption,
    memory: Annotated[str, typer.Option(help="peak memory, e.g. 8GB")] = "8GB",
    form: _AsOption = _Form.checkpoint,
    rank: _RankOption = None,
    shard_size: ShardSizeOption = "5GB",
    allow_pickle: AllowPickleOption = False,
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
    """Build one merged model on disk, piece by piece, in little memory; or an adapter."""
    from evomerge.export.recipe import merge_adapter, merge_recipe

    allowed = {"allow_pickle": allow_pickle, "strict": strict, "truncate": truncate}
    if _is_adapter(form, rank, {"--memory": memory != "8GB", "--shard-size": shard_size != "5GB"}):
        _say_adapter(out, merge_adapter(recipe, out, rank, **allowed))
        return
    notes = merge_recipe(recipe, out, memory, shard_size, **allowed)
    terminal.warn(notes)
    terminal.say(f"wrote {out}")


def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="what the model was made from")],
    model: _ModelArgument,
    rank: Annotated[int, typer.Option(help="largest rank of the change of a matrix")],
    out: Annotated[Path, typer.Option("--out", help="new folder for the adapter")],
    matrices_only: Annotated[
        bool,
        typer.Option("--matrices-only", help="leave out norms and biases, which vLLM cannot load"),
    ] = False,
    without_embeddings: Annotated[
        bool,
        typer.Option(
            "--without-embeddings",
            help="leave out embeddings and head, which vLLM loads of some models only",
        ),
    ] = False,
    allow_pickle: AllowPickleOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write what a fine-tune has changed in its base as a LoRA adapter."""
    from dataclasses import asdict

    from evomerge.export.adapter import extract as extract_adapter

    written = extract_adapter(
        base,
        model,
        rank,
        out,
        matrices_only=matrices_only,
        without_embeddings=without_embeddings,
        allow_pickle=allow_pickle,
    )
    if as_json:
        terminal.print_json(asdict(written))
        return
    rows = [(place, f"{100 * error:.1f} %") for place, error in written.by_layer.items()]
    terminal.print_table(("layer", "lost"), rows)
    _say_adapter(out, written)


def _is_adapter(form: str, rank: int | None, others: Mapping[str, bool]) -> bool:
    """Return whether an adapter is asked for.

    `others`: options of checkpoints -> whether they are given.

    Raises:
        InputError: an option is given that has no effect.
    """
    if rank is not None and form != "adapter":
        raise InputError(f"--rank is {rank}, but a checkpoint has no rank; add `--as adapter`.")
    unused = [name for name, is_given in others.items() if is_given and form == "adapter"]
    if unused:
        raise InputError(
            f"{unused[0]} has no effect on an adapter, which is one file in float32; leave it out, "
            "or leave out `--as adapter`."
        )
    return form == "adapter"


def _say_adapter(out: Path, written: WrittenAdapter) -> None:
    terminal.warn(written.notes)
    terminal.say(f"wrote an adapter of rank {written.rank} to {out}: {written.text}")


def push(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="an exported model or adapter")
    ],
    repository: Annotated[str, typer.Argument(metavar="REPO_ID", help="org/name on the Hub")],
    private: Annotated[
        bool,
        typer.Option("--private/--public", help="an existing repository must be what this says"),
    ] = True,
) -> None:
    """Upload an exported model to the Hugging Face Hub; if interrupted, call it again."""
    from evomerge.export.hub import push_model

    pushed = push_model(model, repository, private=private)
    for name in pushed.left_out:
        terminal.say(f"{name} was not uploaded, since it names folders of this machine")
    terminal.say(f"pushed to {pushed.url}")
