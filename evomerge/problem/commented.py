"""The text of a search file, with what each key is for."""

from collections.abc import Mapping
from math import inf
from typing import Any

from evomerge.parsing.texts import yaml_text

HEAD = """\
# Checked with the models and tasks that it names.
#   evomerge validate --time {file}
#   evomerge search {file} --run {run}
"""

COMMENTS = {
    "seed": "of the optimizer, random methods and the choice of documents",
    "base": "task vectors are parent - base; gives config and tokenizer",
    "dtype": "of the merges, as of the host: bfloat16, float16 or float32",
    "tokenizer": "union: the tokens of all parents, since their vocabularies differ",
    "space": "what is searched",
    "kind": "dataflow: a path through the layers, since parents differ in their number",
    "variant": "each layer is in or out (docs/dataflow.md has other ones)",
    "repeats": "how often the layers of all parents are laid out",
    "method": "`evomerge list methods`; a list makes the method a gene",
    "groups": "of layers, each with its own knobs: a number, each, or one",
    "smooth": "knobs are interpolated over depth between the groups",
    "components": "kinds of tensors with their own knobs; each: every tensor",
    "most_parents": "1 with one parent: how far to go to it from the base",
    "slices": "[min, max] number of slices",
    "layers": "[min, max] number of layers",
    "scales": "factor on the hidden state before a layer: a range, or a number",
    "fewshot": "few-shot examples of each prompt",
    "embeddings": "knobs of their own for embeddings and head",
    "knobs": "a range is searched, a number is fixed; others have defaults",
    "optimizer": "by genes and budget; `evomerge list optimizers` has the others",
    "evaluation": "what is scored, on which documents",
    "include": "folders with task YAML",
    "chat_template": "of the host, for prompts; `validate --time` tries both",
    "search": "candidates are scored on these; auto: few, which costs less",
    "validation": "the winner is chosen on these",
    "test": "the winner's result is measured on these",
    "also": "what was lost: texts of the base, or tasks; nothing is chosen by it",
    "budget": "parents and averages among them; or hours, target, patience",
}

COMMENTS_OF_OTHERS = {
    "dtype": "of the merges: bfloat16, float16 or float32",
    "tokenizer": "base: the host's; union: the tokens of all parents; or a parent",
    "kind": "dataflow: a path through the layers",
    "variant": "frankenmerge: a few contiguous slices",
}
"""Comments where the values are from another tool's file."""


def commented(data: Mapping[str, Any], comments: Mapping[str, Any]) -> str:
    """Return a search file as YAML, with comments by key, and for each item of a list."""
    rows = list[tuple[str, str]]()
    for key, value in data.items():
        if isinstance(value, list):
            items = [f"  - {_flow(item)}" for item in value]
            rows += [(f"{key}:", ""), *zip(items, comments[key], strict=True)]
        elif key in ("space", "evaluation"):
            rows.append((f"{key}:", comments[key]))
            rows += [(f"  {name}: {_flow(item)}", comments[name]) for name, item in value.items()]
        else:
            rows.append((f"{key}: {_flow(value)}", comments[key]))
    return "".join(f"{text:<34} # {said}\n" if said else f"{text}\n" for text, said in rows)


def _flow(value: Any) -> str:
    """Return a value as YAML in one line."""
    return yaml_text([value], flow=True, width=inf).strip()[1:-1]
