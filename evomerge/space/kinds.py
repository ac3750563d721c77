"""All kinds of spaces that a search file can name in `space.kind` and `space.variant`."""

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator, Field

from evomerge.config.space import SpaceKind
from evomerge.errors import listed
from evomerge.parsing.values import shown
from evomerge.space.parameters import ParametersConfig
from evomerge.space.slices import FrankenmergeConfig
from evomerge.space.slots import DroppingConfig, SakanaConfig, StructuredConfig, SwapsConfig

PARAMETERS = "parameters"
DATAFLOW: Mapping[str, type[SpaceKind]] = {
    "sakana": SakanaConfig,
    "structured": StructuredConfig,
    "frankenmerge": FrankenmergeConfig,
    "swaps": SwapsConfig,
    "dropping": DroppingConfig,
}
"""Variant -> its kind; the first is the default."""


def _of_its_kind(data: Any) -> Any:
    """Return a section with its kind and variant; ValueError: it has a key of another kind."""
    if not isinstance(data, Mapping):
        return data
    section = {"kind": PARAMETERS, **data}
    section = {"variant": "sakana", **section} if section["kind"] == "dataflow" else section
    kind, variant = str(section["kind"]), str(section.get("variant"))
    own: type[SpaceKind] | None = ParametersConfig if kind == PARAMETERS else None
    own = DATAFLOW.get(variant) if kind == "dataflow" else own
    if own is None:
        return section  # it is refused by its name
    kinds: list[type[SpaceKind]] = [ParametersConfig, *DATAFLOW.values()]
    every = {key for each in kinds for key in each.model_fields}
    keys = own.model_fields
    if others := sorted(section.keys() & every - keys.keys()):
        named = f"`kind` {kind!r}" + (f", `variant` {variant!r}" if "variant" in keys else "")
        pronoun = "it" if len(others) == 1 else "them"
        raise ValueError(
            f"has {listed(f'`{key}` {shown(section[key])}' for key in others)}, without "
            f"meaning for {named}, whose keys are {', '.join(sorted(keys))}; remove {pronoun}"
        )
    return section


AnySpace: TypeAlias = Annotated[
    ParametersConfig
    | Annotated[
        SakanaConfig | StructuredConfig | FrankenmergeConfig | SwapsConfig | DroppingConfig,
        Field(discriminator="variant"),
    ],
    Field(discriminator="kind"),
    BeforeValidator(_of_its_kind),
]
"""The section `space`: what is searched, and in which ranges."""
