"""The kinds of mixtures that transformers has a class for, and the config of each.

A mixture has the config of its base, in the words of another model type. The two types have other
defaults, so what the base leaves to its default is written out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.errors import RecipeError
from evomerge.merging.mixtures.mixture import Mixture
from evomerge.models.checkpoint import Checkpoint

_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_QWEN = {name: name for name in _MIXTRAL}
_WRITTEN = ("rope_parameters", "dtype", "torch_dtype")
"""Keys that are written in another way, or later."""


@dataclass(frozen=True)
class Shape:
    """A kind of mixture.

    Attributes:
        name: as in mergekit's key `architecture`.
        model_type: in its config.
        architecture: its class in transformers.
        dense: model types of the models that it can be made from.
        block: name of the module in place of the MLP.
        projections: name in a dense MLP -> name in an expert.
        shared: whether it has an expert that all tokens go to.
    """

    name: str
    model_type: str
    architecture: str
    dense: tuple[str, ...]
    block: str
    projections: Mapping[str, str]
    shared: bool = False

    def config(self, mixture: Mixture, base: Checkpoint) -> dict[str, Any]:
        """Return `config.json` of a mixture.

        Raises:
            RecipeError: the base has windows of attention that the mixture cannot have.
            CheckpointError: transformers does not know one of the model types, or refuses the
                config of the base.
        """
        from evomerge.merging.architecture.loading import transformers_config

        given, read = dict(base.config), transformers_config(base.config)
        plain = read.to_dict()
        window = plain.get("sliding_window")
        if window and self.model_type != "mixtral":
            raise RecipeError(
                f"`base_model` {mixture.base!r} has a `sliding_window` of {window} tokens, and a "
                f"{self.name} has it in other layers; if no text is longer, set `sliding_window` "
                "to null in a copy of its config.json."
            )
        defaults = transformers_config({"model_type": self.model_type}).to_dict()
        dense = type(read)().to_dict()
        known = {*defaults, "head_dim"}  # which all read, though not all of their configs have it
        config = {key: item for key, item in given.items() if key not in dense or key in known}
        config |= {
            key: plain[key]
            for key, default in defaults.items()
            if key in plain and key not in (*given, *_WRITTEN) and plain[key] != default
        }
        if "rope_parameters" not in given:
            # transformers 5 has it under another key, and reads this one, too.
            config.setdefault("rope_theta", _rope_theta(plain))
        return config | self._settings(mixture, plain["intermediate_size"])

    def _settings(self, mixture: Mixture, width: int) -> dict[str, Any]:
        count = len(mixture.experts)
        settings: dict[str, Any] = {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            "num_experts_per_tok": mixture.per_token,
        }
        if self.model_type == "mixtral":
            return settings | {"num_local_experts": count}
        settings |= {
            "num_experts": count,
            "moe_intermediate_size": width,
            "norm_topk_prob": True,
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
        return settings | ({"shared_expert_intermediate_size": width} if self.shared else {})


def _rope_theta(plain: Mapping[str, Any]) -> Any:
    return plain["rope_theta"] if "rope_theta" in plain else plain["rope_parameters"]["rope_theta"]


SHAPES = (
    Shape(
        "Mixtral",
        "mixtral",
        "MixtralForCausalLM",
        ("llama", "mistral"),
        "block_sparse_moe",
        _MIXTRAL,
    ),
    Shape(
        "Qwen MoE",
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        ("qwen2", "llama", "mistral"),
        "mlp",
        _QWEN,
        shared=True,
    ),
    Shape("Qwen3 MoE", "qwen3_moe", "Qwen3MoeForCausalLM", ("qwen3",), "mlp", _QWEN),
)


def shape_of(mixture: Mixture, checkpoints: Mapping[str, Checkpoint]) -> Shape:
    """Return the shape of a mixture.

    Raises:
        RecipeError: no shape takes models of these types, or this number of shared experts; or the
            mixture asks for a shape that there is not.
    """
    kinds = {name: checkpoints[name].config.get("model_type") for name in mixture.models}
    kind = kinds[mixture.base]
    for name, other in kinds.items():
        if other != kind:
            raise RecipeError(
                f"`base_model` {mixture.base!r} is a {kind}, but {name!r} is a {other}; take "
                "models of one type."
            )
    wanted = (mixture.architecture or "").lower()
    named = [shape for shape in SHAPES if shape.name.lower().startswith(wanted)]
    fitting = [shape for shape in named if kind in shape.dense]
    if not named:
        raise RecipeError(
            f"`architecture` is {mixture.architecture!r}; it must be one that transformers loads "
            f"without other code: {', '.join(shape.name for shape in SHAPES)}."
        )
    if not fitting:
        known = ", ".join(dict.fromkeys(item for shape in named for item in shape.dense))
        raise RecipeError(
            f"`base_model` {mixture.base!r} is a {kind}, but a mixture"
            f"{f' ({named[0].name})' if wanted else ''} is made from dense models of type {known}; "
            "take such a base."
        )
    for shape in fitting:
        if shape.shared == (mixture.shared is not None):
            return shape
    shape = fitting[0]
    fix = "name one model there" if shape.shared else "remove it"
    raise RecipeError(
        f"`shared_experts` has {int(mixture.shared is not None)} entries, but a mixture of {kind} "
        f"models ({shape.name}) has {'exactly one' if shape.shared else 'none'}; {fix}."
    )
