"""Methods that work on matrices as wholes: whether a search computes them again and again."""

from __future__ import annotations

from evomerge.merging.methods import get_method
from evomerge.merging.methods.cost import merge_seconds
from evomerge.merging.methods.method import Method
from evomerge.models.checkpoint import Checkpoint
from evomerge.report.words import fine_duration
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.executor import workers_per_machine
from evomerge.setup.memory import prepared_bytes, sources_of
from evomerge.setup.worker import MemoryShare


def costly_warning(checked: CheckedSearch) -> str | None:
    """Return a warning if candidates compute the merge of whole matrices anew, else None.

    With the same sources, and as long as it stays in memory, such a merge is computed only once.
    """
    space = checked.config.space
    if space.kind == "dataflow":
        return None
    for method in map(get_method, space.methods):
        reason = _why_again(checked, method) if method.svds is not None else None
        if reason is not None:
            sources = space.most_parents or sources_of(checked, method.name)
            seconds = merge_seconds(method, _shapes(checked.checkpoints[checked.host]), sources)
            return (
                f"space.method is {method.name!r}, whose merge takes about "
                f"{fine_duration(seconds)} of CPU time, for nearly every candidate anew, since "
                f"{reason} (docs/methods.md); make the merge a parent, `merge:FILE.yaml`, which is "
                "built once, and search its weight by another method."
            )
    return None


def _why_again(checked: CheckedSearch, method: Method) -> str | None:
    """Return why candidates differ in what this method computes, or None if they do not."""
    config = checked.config
    if config.space.most_parents is not None:
        return "candidates of a pool merge different parents"
    if config.space.kind == "joint":
        return "the layers of a path change places"
    shared = {knob.name for knob in method.knobs if knob.per == "merge"} - {"lambda"}
    for name, value in config.space.knobs.items():
        if name in shared and not isinstance(value, float):
            return f"`space.knobs.{name}` is searched"
    room = MemoryShare.of_machine(workers_per_machine(config)).prepared
    return None if prepared_bytes(checked) <= room else "memory is too small to keep it"


def _shapes(host: Checkpoint) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors in the blocks of the language model."""
    return [
        host.tensors[stack.name(layer, rest)].shape
        for stack in host.language.values()
        for layer, block in enumerate(stack.blocks)
        for rest in block
    ]
