"""What a mixture of experts is made from, without any weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

Gates: TypeAlias = Literal[
    "hidden", "hidden_last", "hidden_avg", "cheap_embed", "random", "uniform_random"
]
"""How routers are made; see `evomerge.merging.mixtures.routers`."""

GATES: tuple[Gates, ...] = get_args(Gates)


@dataclass(frozen=True)
class Expert:
    """A dense model whose MLPs are the experts of one number, one in each layer.

    Attributes:
        model: reference of the model.
        positive: prompts whose tokens shall go to this expert.
        negative: prompts whose tokens shall not.
        residual_scale: factor on its down projection, and so on all that it adds.
        noise_scale: standard deviation of noise that is added to its weights.
    """

    model: str
    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    residual_scale: float = 1.0
    noise_scale: float = 0.0


@dataclass(frozen=True)
class Mixture:
    """A mixture of experts.

    Attributes:
        base: the model that gives all but the MLPs.
        per_token: how many experts each token goes to, from 1 to their number.
        dtype: of its weights; None: that of the base.
        shared: the expert that all tokens go to, or None.
        architecture: how the name of its shape begins; None: the one that fits.
    """

    base: str
    experts: tuple[Expert, ...]
    gates: Gates = "hidden"
    per_token: int = 2
    dtype: str | None = None
    shared: Expert | None = None
    architecture: str | None = None

    @property
    def every(self) -> tuple[Expert, ...]:
        """The experts, and the shared one behind them."""
        return (*self.experts, *((self.shared,) if self.shared else ()))

    @property
    def models(self) -> tuple[str, ...]:
        """The base and the models of the experts, each once."""
        return tuple(dict.fromkeys((self.base, *(expert.model for expert in self.every))))

    @property
    def needs_prompts(self) -> bool:
        """Whether its routers are made from prompts."""
        return "random" not in self.gates
