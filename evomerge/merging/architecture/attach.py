"""Parts that transformers does not build: children of a model in memory, such as its modules.

The name of a child is what the names of its weights in the checkpoint begin with.
"""

from collections.abc import Callable, Collection, Mapping

from torch import nn

from evomerge.compat.transformers import quiet
from evomerge.errors import CheckpointError, ConfigError, blaming
from evomerge.merging.architecture.layout import Location
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.modules import STACK


def make_parts(checkpoint: Checkpoint, parts: Collection[str]) -> dict[str, nn.Module]:
    """Return the children of a model that are these parts, by name.

    `ConfigError`: a library is not installed. `CheckpointError`: the model lacks a part, or has one
    that cannot be built.
    """
    return {name: child for part in parts for name, child in _MAKERS[part](checkpoint).items()}


def attach(model: nn.Module, checkpoint: Checkpoint, parts: Collection[str]) -> dict[str, Location]:
    """Add parts to a model in memory.

    Returned is where their weights lie, by names in the checkpoint; raises as `make_parts`.
    """
    locations = {}
    dtype = next(model.parameters()).dtype
    for child_name, child in make_parts(checkpoint, parts).items():
        model.add_module(child_name, child.to(dtype).requires_grad_(False).eval())
        for name, weight in child.named_parameters(prefix=child_name):
            shape = tuple(weight.shape)
            locations[name] = Location(name, (0,) * len(shape), shape, tuple(range(len(shape))))
    if parts:
        setattr(model, STACK, checkpoint.modules)
    return locations


def _modules(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """Return the modules behind the transformer of a sentence encoder, by folder."""
    stack, name = checkpoint.modules, checkpoint.reference
    if stack is None:
        raise CheckpointError(
            f"Parent {name!r} has no modules.json, so nothing says how the vectors of its tokens "
            "become one; name a host that has one with `space.host`, or save a SentenceTransformer."
        )
    if (reason := stack.obstacle()) is not None:
        raise CheckpointError(
            f"Parent {name!r} cannot be scored as a sentence encoder, since {reason}; give one "
            "that `SentenceTransformer` makes of a transformer for texts."
        )
    with blaming(
        ConfigError,
        "objectives: sentence encoders are scored with sentence-transformers, which cannot be "
        "imported ({reason}); install it with `pip install 'evomerge[encoders]'`.",
        ImportError,
    ):
        from sentence_transformers.sentence_transformer import modules as kinds
    made = {}
    for module in stack.modules[1:]:
        why = (
            f"Parent {name!r}: the module {module.kind} in {checkpoint.folder / module.folder} "
            "cannot be built ({reason}); copy its files again."
        )
        with blaming(CheckpointError, why), quiet():
            made[module.folder] = getattr(kinds, module.kind).load(
                str(checkpoint.folder), subfolder=module.folder, local_files_only=True
            )
    return made


_MAKERS: Mapping[str, Callable[[Checkpoint], dict[str, nn.Module]]] = {"modules": _modules}
"""Name of a part -> what builds it; transformers builds all others."""
