"""Chat templates by name, for models whose parents have none of the wanted format.

Each is written for this package from the published format of its prompts.
"""

from __future__ import annotations

_EACH = "{%- for message in messages -%}\n"
_END = "{%- endfor -%}\n"
_SYSTEM_IN_USER = (
    "{%- if messages and messages[0]['role'] == 'system' -%}\n"
    "{%- set system = messages[0]['content'] + '\\n\\n' -%}{%- set messages = messages[1:] -%}\n"
    "{%- else -%}{%- set system = '' -%}{%- endif -%}\n"
)

TEMPLATES = {
    "chatml": (
        _EACH
        + "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n'"
        " -}}\n"
        + _END
        + "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}\n"
    ),
    "llama3": (
        "{{- bos_token -}}\n"
        + _EACH
        + "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}\n"
        "{{- message['content'] | trim + '<|eot_id|>' -}}\n"
        + _END
        + "{%- if add_generation_prompt -%}\n"
        "{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}\n"
        "{%- endif -%}\n"
    ),
    "alpaca": (
        _SYSTEM_IN_USER + "{{- system -}}\n" + _EACH + "{%- if message['role'] == 'user' -%}\n"
        "{{- '### Instruction:\\n' + message['content'] | trim + '\\n\\n' -}}\n"
        "{%- elif message['role'] == 'assistant' -%}\n"
        "{{- '### Response:\\n' + message['content'] | trim + '\\n\\n' -}}\n"
        "{%- endif -%}\n"
        + _END
        + "{%- if add_generation_prompt -%}{{- '### Response:\\n' -}}{%- endif -%}\n"
    ),
    "mistral": (
        _SYSTEM_IN_USER + "{{- bos_token -}}\n" + _EACH + "{%- if message['role'] == 'user' -%}\n"
        "{{- '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' -}}\n"
        "{%- else -%}{{- ' ' + message['content'] + eos_token -}}{%- endif -%}\n" + _END
    ),
    "exaone": (
        _EACH + "{%- if loop.first and message['role'] != 'system' -%}\n"
        "{{- '[|system|][|endofturn|]\\n' -}}\n"
        "{%- endif -%}\n"
        "{{- '[|' + message['role'] + '|]' + message['content'] -}}\n"
        "{{- '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' -}}\n"
        + _END
        + "{%- if add_generation_prompt -%}{{- '[|assistant|]' -}}{%- endif -%}\n"
    ),
}
"""Name, as in mergekit's `chat_template` -> text of a Jinja template."""
