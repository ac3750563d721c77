"""What parents have beside their language model, and what becomes of it in a merge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import modality_misfit
from evomerge.models.files import PROCESSOR_FILES
from evomerge.models.safetensors import read_json
from evomerge.recipe import MODALITIES
from evomerge.report.words import size_text
from evomerge.setup.checked import CheckedSearch


def sees_by_host(checked: CheckedSearch, reference: str) -> bool:
    """Whether tasks show images to a parent without a tower, which sees them by the host's."""
    sees = {
        name: "vision" in checked.checkpoints[name].modalities for name in (checked.host, reference)
    }
    if sees[reference] or not sees[checked.host]:
        return False
    return any(info.shows_images for info in checked.evaluator.info.tasks.values())


def modality_rows(checked: CheckedSearch) -> dict[str, dict[str, str] | None]:
    """Return rows of `evomerge validate`: what each parent has, and what becomes of each modality.

    The rows of a search without vision or audio are None.
    """
    found = {name: _content(item) for name, item in checked.checkpoints.items()}
    if not any(found.values()):
        return {"modalities": None, "modality_tensors": None}
    fates = {modality: _fate(checked, modality) for modality in MODALITIES}
    return {
        "modalities": {name: text or "none" for name, text in found.items()},
        "modality_tensors": {name: fate for name, fate in fates.items() if fate},
    }


def modality_notes(checked: CheckedSearch) -> Iterator[str]:
    """Yield warnings of modalities that are lost or not merged, and of files of processors."""
    host, merged = checked.checkpoints[checked.host], _merged(checked)
    for modality in MODALITIES:
        having = {n: item for n, item in checked.checkpoints.items() if modality in item.modalities}
        if having and checked.host not in having:
            (name, *_) = having
            yield (
                f"the {modality} tensors of {name!r} are lost, since the host {checked.host!r} has "
                f"none; set `space.host` to {name!r} to keep them."
            )
        elif modality in merged:
            for item in having.values():
                if reason := modality_misfit(host, item, modality):
                    yield f"{item.reference!r} has no share in {modality} tensors, since {reason}."
    if not host.modalities:
        return
    own = _processors(host)
    if not own:
        yield (
            f"the host {checked.host!r} has {' and '.join(host.modalities)} tensors, but neither "
            "preprocessor_config.json nor processor_config.json, so `AutoProcessor` cannot prepare "
            "images or sounds for a merge; copy them from the model that it was made from."
        )
    for name, item in checked.checkpoints.items():
        theirs = _processors(item)
        for file in own.keys() & theirs.keys():
            if own[file] != theirs[file]:
                yield (
                    f"{file} differs between {checked.host!r} and {name!r}, which were trained on "
                    f"images or sounds that are prepared in other ways; merges have that of the "
                    f"host, {checked.host!r}."
                )


def _content(checkpoint: Checkpoint) -> str:
    """Return the modalities of a parent with their sizes, and its files of processors."""
    if not checkpoint.modalities:
        return ""
    sizes = (
        f"{name} {size_text(sum(checkpoint.tensors[key].nbytes for key in keys))}"
        for name, keys in checkpoint.modalities.items()
    )
    files = ", ".join(_processors(checkpoint)) or "no files of a processor"
    return f"{', '.join(sizes)}; {files}"


def _fate(checked: CheckedSearch, modality: str) -> str:
    """Return what becomes of a modality in a merge; empty if no parent has it."""
    having = [n for n, item in checked.checkpoints.items() if modality in item.modalities]
    if checked.host not in having:
        return "lost, since the host has none" if having else ""
    if modality in (merged := _merged(checked)):
        return f"merged from {', '.join(merged[modality])}"
    others = [name for name in having if name != checked.host]
    hint = f"; `components: [{modality}]` merges it" if others else ""
    return f"kept from the host{hint}" if checked.config.space.kind == "parameters" else "kept"


def _merged(checked: CheckedSearch) -> Mapping[str, tuple[str, ...]]:
    """Return each modality that candidates merge -> the parents that it is merged from."""
    found: dict[str, dict[str, None]] = {}
    for recipe in checked.space.baselines().values():
        for modality, layer in recipe.modalities.items():
            names = dict.fromkeys(source.parent for source in layer.inputs)
            found[modality] = found.get(modality, {}) | names
    return {modality: tuple(names) for modality, names in found.items()}


def _processors(checkpoint: Checkpoint) -> dict[str, object]:
    """Return the content of a parent's files that say how images and sounds are prepared."""
    files = (file for file in checkpoint.companions if file.name in PROCESSOR_FILES)
    return {file.name: read_json(file) for file in files}
