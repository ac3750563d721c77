"""The chat template of a merged model: that of a parent, a template by name, or a given text."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from evomerge.errors import CheckpointError, RecipeError, did_you_mean
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import read_json
from evomerge.parsing.texts import read_text
from evomerge.parsing.values import shown

TEMPLATES = ("chatml", "llama3", "alpaca", "mistral", "exaone")
"""Names, as in mergekit"s `chat_template`, of Jinja templates in the folder `chat_templates`."""


def template_of(checkpoint: Checkpoint) -> str | None:
    """Return the chat template of a parent (the default one if it has several), or None."""
    file = checkpoint.folder / "chat_template.jinja"
    if file.is_file():
        return read_text(file, CheckpointError)
    for name in ("tokenizer_config.json", "chat_template.json"):
        if (checkpoint.folder / name).is_file():
            found = read_json(checkpoint.folder / name).get("chat_template")
            if isinstance(found, list):
                named = [item for item in found if isinstance(item, dict)]
                found = next((i.get("template") for i in named if i.get("name") == "default"), None)
            if isinstance(found, str):
                return found
    return None


def choose_template(wanted: str, parents: Sequence[Checkpoint], giver: Checkpoint) -> str | None:
    """Return the text of the template that the option `chat_template` selects, or None.

    `wanted` is `auto`, a name in `TEMPLATES`, the reference of a parent, or the text of a Jinja
    template. `auto` selects the template that most parents have; if there are several of these,
    that of `giver`, whose tokenizer the merged model gets, or else that of the first parent.

    Raises:
        RecipeError: the option is none of these, or the parent has no template.
    """
    if wanted == "auto":
        order = [giver, *(parent for parent in parents if parent is not giver)]
        templates = [text for parent in order if (text := template_of(parent)) is not None]
        return Counter(templates).most_common(1)[0][0] if templates else None
    if wanted in TEMPLATES:
        file = Path(__file__).with_name("chat_templates") / f"{wanted}.jinja"
        return file.read_text(encoding="utf-8")
    named = [parent for parent in parents if parent.reference == wanted]
    is_text = "{%" in wanted or "{{" in wanted
    text = template_of(named[0]) if named else wanted if is_text else None
    if text is None:
        kind = ", a parent without a chat template" if named else ""
        raise RecipeError(
            f"`chat_template` is {shown(wanted)}{kind}; allowed are auto, {', '.join(TEMPLATES)}, "
            f"a parent that has one, or the text of a Jinja template."
            f"{did_you_mean(wanted, TEMPLATES)}"
        )
    return text
