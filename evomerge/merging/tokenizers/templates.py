"""The chat template of a merged model: that of a parent, a template by name, or a given text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evomerge.errors import CheckpointError, RecipeError, did_you_mean
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import read_json
from evomerge.parsing.texts import read_text
from evomerge.parsing.values import shown

_SYSTEM_IN_USER = r"""{%- if messages and messages[0]['role'] == 'system' -%}
{%- set system = messages[0]['content'] + '\n\n' -%}{%- set messages = messages[1:] -%}
{%- else -%}{%- set system = '' -%}{%- endif -%}
"""

TEMPLATES = {
    "chatml": r"""{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
""",
    "llama3": r"""{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}{%- endif -%}
""",
    "alpaca": _SYSTEM_IN_USER
    + r"""{{- system -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '### Instruction:\n' + message['content'] | trim + '\n\n' -}}
{%- elif message['role'] == 'assistant' -%}
{{- '### Response:\n' + message['content'] | trim + '\n\n' -}}
{%- endif -%}{%- endfor -%}
{%- if add_generation_prompt -%}{{- '### Response:\n' -}}{%- endif -%}
""",
    "mistral": _SYSTEM_IN_USER
    + r"""{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' -}}
{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}{%- endfor -%}
""",
    "exaone": r"""{%- for message in messages -%}
{{- '[|system|][|endofturn|]\n' if loop.first and message['role'] != 'system' -}}
{{- '[|' + message['role'] + '|]' + message['content'] -}}
{{- '\n' if message['role'] == 'user' else '[|endofturn|]\n' -}}
{%- endfor -%}{%- if add_generation_prompt -%}{{- '[|assistant|]' -}}{%- endif -%}
""",
}
"""Name, as in mergekit's `chat_template` -> text of a Jinja template for the published format."""


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
    text = TEMPLATES.get(wanted, wanted if "{%" in wanted or "{{" in wanted else None)
    named = [parent for parent in parents if parent.reference == wanted]
    if named and wanted not in TEMPLATES:
        text = template_of(named[0])
    if text is None:
        kind = ", a parent without a chat template" if named else ""
        raise RecipeError(
            f"`chat_template` is {shown(wanted)}{kind}; allowed are auto, {', '.join(TEMPLATES)}, "
            f"a parent that has one, or the text of a Jinja template."
            f"{did_you_mean(wanted, TEMPLATES)}"
        )
    return text
