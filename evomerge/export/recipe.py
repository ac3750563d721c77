"""Building the model of a recipe file, evomerge's or mergekit's (`evomerge merge`)."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from evomerge.errors import EvomergeError, RecipeError
from evomerge.mergekit import documents, separated
from evomerge.merging.methods import get_method
from evomerge.models.correspondence import prediction_notes, type_notes
from evomerge.models.encoder_decoder import is_encoder_decoder
from evomerge.models.references import MERGE, is_file, is_folder, place, split_adapter, split_kind
from evomerge.parsing.texts import read_text
from evomerge.run.atomic import TemporaryFolder, check_new_folder
from evomerge.setup.classifiers import head_notes
from evomerge.setup.encoders import differing_modules, module_notes
from evomerge.setup.merges import MergeOpener, pinned
from evomerge.setup.parents import (
    absolute_file,
    absolute_parent,
    is_winner_of_stage,
    renamed_recipe,
)
from evomerge.setup.recipe_file import RecipeFile, read_recipe_file
from evomerge.setup.runs import open_model

_LAST = "evomerge_last.yaml"
"""Name of the document of a file with several that makes the model, in a temporary folder."""


def merge_recipe(
    file: Path,
    out: Path,
    memory: str,
    shard_size: str,
    *,
    allow_pickle: bool = False,
    strict: bool = False,
    truncate: bool = False,
) -> tuple[str, ...]:
    """Write the model of a recipe file or mergekit config, without holding it in memory as a whole.

    A model card and the recipe are written beside it, and a mergekit config if there is one that
    makes the same model. Relative paths in the file are looked up in the working folder first, then
    in the folder of the file. For arguments and errors see `evomerge.merge`. The sentences that are
    returned say what mergekit ignores in its config, and what was decided because parents differ.
    """
    from evomerge.export.card import Merge, merge_card
    from evomerge.export.metadata import task_of
    from evomerge.export.parents import describe_parents
    from evomerge.mergekit import to_mergekit
    from evomerge.merging.backend import write

    check_new_folder(out)
    with TemporaryFolder() as inner, _as_in_file(file, inner):
        read = _read(file, inner, allow_pickle=allow_pickle, strict=strict, truncate=truncate)
        content, opener, notes = read.content, read.opener, read.notes
        recipe, checkpoints, extra = content.recipe, content.checkpoints, dict(read.texts)
        inside = read.inside
        known = all(get_method(layer.method).in_mergekit for layer in recipe.every_layer())
        named = {name for item in opener.found.values() for name in item.names} | {*recipe.parents}
        ours = any(split_kind(name)[0] for name in named - inside)
        if content.mergekit and known and not ours:
            mergekit: str | None = read_text(file, RecipeError)
        else:  # a parent that is a merge was built in a folder that is removed
            merges = any(name.startswith(MERGE) for name in recipe.parents)
            mergekit = None if merges else to_mergekit(recipe, checkpoints)
        if mergekit is not None:
            extra["mergekit_config.yml"] = mergekit
        parents = describe_parents(recipe.parents, checkpoints, opener.named)
        host = checkpoints[recipe.host]
        shown_as = (task_of(host), allow_pickle, is_encoder_decoder(host))
        merge = Merge(recipe, parents, mergekit is not None, *shown_as)
        extra |= merge_card(merge, _versions())
        every = [checkpoints[name] for name in (recipe.host, *recipe.parents)]
        notes += type_notes(checkpoints[name] for name in recipe.parents)
        shown = {name: repr(name) for name in checkpoints}
        notes += module_notes(dict.fromkeys(every), shown)
        if every[0].modules is not None:
            notes += differing_modules(dict.fromkeys(every), shown)
        notes += head_notes(dict.fromkeys(every), shown)
        notes += prediction_notes(n for n in recipe.parents if checkpoints[n].predictions)
        notes += write(recipe, checkpoints, out, memory=memory, shard_size=shard_size, texts=extra)
        return tuple(notes)


class _Read(NamedTuple):
    """A recipe file that was read.

    `texts` are the recipe and other documents of the file, to be written beside its model; `inside`
    are the parents that are such documents.
    """

    content: RecipeFile
    opener: MergeOpener
    notes: list[str]
    texts: dict[str, str]
    inside: set[str]


def _read(file: Path, inner: Path, *, allow_pickle: bool, strict: bool, truncate: bool) -> _Read:
    """Read a recipe file and open its parents, with a temporary folder for its documents."""
    opener = MergeOpener(open_model, models=inner / "models")
    given = read_text(file, RecipeError)
    source, parts = file, dict[str, str]()
    if len(documents(given)) > 1:
        source = inner / _LAST
        last, parts = separated(given, lambda name: absolute_name(name, file))
        for name, text in (parts | {_LAST: last}).items():
            (inner / name).write_text(text, encoding="utf-8")
    content = read_recipe_file(
        source,
        lambda name, pin: opener(name, start_of(name, source), allow_pickle=allow_pickle, pin=pin),
        truncate=truncate,
    )
    warnings = [note for item in opener.found.values() for note in item.notes]
    notes = [*content.notes, *(_with_documents(note, inner) for note in warnings)]
    if strict and notes:
        raise RecipeError(
            f"`--strict` allows no warnings, but {file} has {len(notes)}: {' '.join(notes)}"
        )
    inside = {f"{MERGE}{name}" for name in parts}
    names = {name: absolute_name(name, file) for name in {*content.recipe.parents} - inside}
    pins = pinned(content.recipe, content.checkpoints, opener.named)
    texts = {"evomerge_recipe.yaml": renamed_recipe(pins, names).to_yaml(), **parts}
    return _Read(content, opener, notes, texts, inside)


@contextmanager
def _as_in_file(file: Path, folder: Path) -> Iterator[None]:
    """Let errors name documents in a temporary folder, and lost paths, as in the file."""
    try:
        yield
    except EvomergeError as error:
        sentence = _with_documents(str(error), folder)
        start = "" if file.parent == Path() else f"{file.parent}/"
        error.args = (sentence.replace(f"{folder}/", start),)
        raise


def _with_documents(sentence: str, folder: Path) -> str:
    """Return a sentence with `Document 'a'` for `Parent 'merge:FOLDER/a.yaml'`."""

    def spoken(found: re.Match[str]) -> str:
        if not (folder / f"{found['name']}.yaml").is_file():
            return found[0]
        return f"{'Document' if found['parent'] == 'Parent ' else 'document'} {found['name']!r}"

    place = re.escape(f"{folder.resolve()}/")
    return re.sub(
        rf"(?P<parent>\b[Pp]arent )?(?P<quote>['`]?)merge:(?:{place})?(?P<name>\w[\w.-]*)\.yaml"
        r"(?P=quote)",
        spoken,
        sentence,
    )


def absolute_name(name: str, file: Path) -> str:
    """Return the reference of a parent, or the path of a file, from which other folders find it."""
    found = absolute_parent(name, start_of(name, file))
    return found if found != name else absolute_file(name, file.parent)


def start_of(reference: str, file: Path) -> Path:
    """Return the folder that a relative path in a file of a merge or mixture starts from."""
    if is_winner_of_stage(reference):  # in the recipe of a stage
        return file.parent
    kind, path = split_kind(reference)
    there = place(path if kind else split_adapter(path, Path.cwd())[0], Path.cwd())
    return Path.cwd() if is_folder(there) or is_file(there) else file.parent


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the bits of a merge may depend on."""
    packages = ("evomerge", "torch", "transformers", "numba", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
