"""How tokenizers and chat templates of parents differ. Only JSON and texts are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from evomerge.errors import printable
from evomerge.merging.tokenizers.templates import template_of
from evomerge.merging.tokenizers.tokens import Tokens
from evomerge.models.checkpoint import Checkpoint

_SHOWN = 3  # tokens


def text_differences(models: Sequence[Checkpoint], names: Mapping[str, str]) -> list[str]:
    """Return how the tokenizers and chat templates differ from those of the first model.

    Args:
        names: reference of a model -> its name in the sentences.

    Raises:
        CheckpointError: a `tokenizer.json` is damaged.
    """
    return [*_of_tokenizers(models, names), *_of_templates(models, names)]


def _of_tokenizers(models: Sequence[Checkpoint], names: Mapping[str, str]) -> Iterator[str]:
    host, *others = models
    if not (host.folder / "tokenizer.json").is_file():
        yield f"{names[host.reference]} has no tokenizer.json, so tokens are not compared."
        return
    own = Tokens.of(host).ids
    for other in others:
        name = names[other.reference]
        if not (other.folder / "tokenizer.json").is_file():
            yield f"{name} has no tokenizer.json, so its tokens are not compared."
            continue
        ids = Tokens.of(other).ids
        new = [token for token in ids if token not in own]
        parts = [
            f"{len(new):,} that {names[host.reference]} lacks{_examples(new)}" if new else "",
            _count(sum(token not in ids for token in own), "fewer"),
            _count(sum(own.get(token, i) != i for token, i in ids.items()), "with another id"),
        ]
        if found := ", ".join(filter(None, parts)):
            yield f"Tokens of {name}: {found}."


def _examples(tokens: Sequence[str]) -> str:
    more = ", ..." if len(tokens) > _SHOWN else ""
    return f" ({', '.join(printable(token, 40) for token in tokens[:_SHOWN])}{more})"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number else ""


def _of_templates(models: Sequence[Checkpoint], names: Mapping[str, str]) -> Iterator[str]:
    groups: dict[str | None, list[str]] = {}
    for model in models:
        groups.setdefault(template_of(model), []).append(names[model.reference])
    if len(groups) == 1:
        return
    without = groups.pop(None, [])
    parts = [", ".join(group) for group in groups.values()]
    if without:
        parts.append(f"none in {', '.join(without)}")
    yield f"Chat templates differ: {'; '.join(parts)}."
