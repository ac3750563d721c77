"""What a space adds layers to: the host, embeddings and head that a search file names."""

from evomerge.config.schema import SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source


def host_of(config: SearchConfig) -> str:
    """Return the reference of the host, the parent that gives config and tokenizer."""
    if config.space.host is not None:
        return config.space.host
    if config.base is not None and not config.space.is_path:
        return config.base
    return config.parents[0]


def frame_of(config: SearchConfig, host: Checkpoint) -> Recipe:
    """Return a recipe without layers, to which a space adds them."""
    givers = config.space.givers
    base = [config.base] if config.base else []
    # With the host's tokenizer, the rows of embeddings are not matched by token.
    vocabulary = () if config.tokenizer == "base" else dict.fromkeys([*base, *config.parents])

    def whole(parent: str | None) -> Layer:
        return Layer("passthrough", (Source(parent or host.reference),))

    return Recipe(
        host=host.reference,
        layers={},
        embeddings=whole(givers.get("outside.embeddings")),
        head=whole(givers.get("outside.head")),
        dtype=config.dtype,
        tokenizer=config.tokenizer,
        vocabulary=tuple(vocabulary),
        seed=config.seed,
    )
