"""The modules of a sentence encoder in memory: children of the model of its transformer.

The name of a child is the folder of the module, so the names of weights are the checkpoint's.
"""

from torch import nn

from evomerge.errors import CheckpointError, ConfigError, blaming
from evomerge.merging.architecture.layout import Location
from evomerge.merging.architecture.loading import quiet
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.modules import STACK


def check_modules(checkpoint: Checkpoint) -> None:
    """Check that texts can be encoded by a model as sentence-transformers does it.

    `ConfigError`: it is not installed. `CheckpointError`: the model has no modules, or one that
    cannot be built.
    """
    _made(checkpoint)


def attach_modules(model: nn.Module, checkpoint: Checkpoint) -> dict[str, Location]:
    """Add the modules of a sentence encoder to the model of its transformer.

    Returned is where their weights lie, by names in the checkpoint; raises as `check_modules`.
    """
    locations = {}
    dtype = next(model.parameters()).dtype  # which sentence-transformers gives all modules
    for folder, module in _made(checkpoint).items():
        model.add_module(folder, module.to(dtype).requires_grad_(False).eval())
        for name, weight in module.named_parameters(prefix=folder):
            shape = tuple(weight.shape)
            locations[name] = Location(name, (0,) * len(shape), shape, tuple(range(len(shape))))
    setattr(model, STACK, checkpoint.modules)
    return locations


def _made(checkpoint: Checkpoint) -> dict[str, nn.Module]:
    """Return the modules behind the transformer, by folder."""
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
