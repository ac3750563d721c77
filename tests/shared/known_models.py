"""Models that exist only as answers to what a conversion asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from evomerge.config.schema import SearchConfig, parse
from evomerge.mergekit.convert import Conversion, convert


@dataclass(frozen=True)
class KnownModels:
    """Gives the same answer for every model; None: not known."""

    layers_of_all: int | None = None
    templates: bool | None = None

    def layers(self, model: str) -> int | None:
        return self.layers_of_all

    def chat_template(self, model: str) -> bool | None:
        return self.templates


def converted(
    config: Any, layers: int | None = None, templates: bool | None = None
) -> tuple[SearchConfig, Conversion]:
    """Return the search file for a config (YAML, or its content), parsed and as it is."""
    text = config if isinstance(config, str) else yaml.safe_dump(config, sort_keys=False)
    done = convert(text, "evolve.yaml", KnownModels(layers, templates))
    return parse(yaml.safe_load(done.text), "converted"), done
