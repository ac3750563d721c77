"""Scoring candidates together that share the beginning of their paths: a trie of blocks.

Candidates whose first blocks are the same (same parents, same layers, same scales) have, for a
batch of prompts, the same hidden state behind them. Visited in the order of the trie, every
distinct block is applied once a batch; only states at forks are held, and only until the last
candidate behind the fork has been scored. The kernels and their inputs are those of a candidate
scored alone, so the scores are the same bits.

Prompts that are generated from are left alone: there every candidate reads its own tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Trail: TypeAlias = tuple[str, ...]
"""What tells the blocks of a model apart, in order; equal beginnings compute the same."""


@dataclass(frozen=True)
class Visit:
    """One candidate's turn.

    Attributes:
        number: which candidate.
        start: how many blocks the candidates before have already applied.
        keep: after how many blocks the state is held for those that follow.
        needed: states held before, by number of blocks, that are still needed afterwards.
    """

    number: int
    start: int
    keep: frozenset[int]
    needed: frozenset[int]


def visits(trails: Sequence[Trail]) -> list[Visit]:
    """Return the order in which every distinct block is applied once.

    Of two trails, which comes first does not depend on the others. The sum of
    `len(trail) - start` over the visits is the number of nodes of the trie.
    """
    order = sorted(range(len(trails)), key=lambda number: (trails[number], number))
    starts = [0] + [_common(trails[a], trails[b]) for a, b in pairwise(order)]
    turns: list[Visit] = []
    for turn, number in enumerate(order):
        ahead: set[int] = set()
        reach = len(trails[number])
        for later in starts[turn + 1 :]:
            reach = min(reach, later)
            if not reach:
                break
            if later == reach:
                ahead.add(later)
        keep = frozenset(depth for depth in ahead if depth > starts[turn])
        turns.append(Visit(number, starts[turn], keep, frozenset(ahead)))
    return turns


def _common(one: Trail, other: Trail) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


@dataclass
class Forks:
    """Hidden states at forks, by batch and number of blocks, within a bound of memory.

    A state that does not fit is not held; the candidates that want it start from the nearest
    earlier one, or from the embeddings.

    Attributes:
        memory: bytes that may be held.
        applied: how many blocks were applied to a batch so far.
        spared: how many were not, since their state was held.
    """

    memory: int
    applied: int = 0
    spared: int = 0
    _states: dict[int, dict[int, Any]] = field(default_factory=dict)
    _batches: dict[int, Tensor] = field(default_factory=dict)
    _held: int = 0

    @contextmanager
    def visit(self, model: nn.Module, visit: Visit, depth: int) -> Iterator[None]:
        """Let a model start from held states, and hold those that are wanted later.

        Args:
            model: the candidate; its scoring calls have `use_cache=False`, and the same tensor as
                `input_ids` for the same batch.
            visit: its turn.
            depth: its number of blocks.
        """
        # What lies deeper is of another path, also where a candidate before this one has failed.
        self._retain(lambda at: at <= visit.start)
        blocks = find_blocks(model, depth)
        if blocks is None:
            yield
            return
        call = _Call(self, visit)
        handle = model.register_forward_pre_hook(call.begin, with_kwargs=True)
        own: list[Callable[..., Any]] = [block.forward for block in blocks]
        patched = {index for index, block in enumerate(blocks) if "forward" in vars(block)}
        for index, block in enumerate(blocks):
            block.forward = call.stand_in(index, own[index])
        try:
            yield
        finally:
            handle.remove()
            for index, block in enumerate(blocks):
                if index in patched:
                    block.forward = own[index]
                else:
                    del block.forward
            self._retain(lambda at: at in visit.needed)

    def states(self, batch: Tensor) -> dict[int, Any]:
        """Return the states held for a batch."""
        self._batches.setdefault(id(batch), batch)  # an id is reused once its tensor is gone
        return self._states.setdefault(id(batch), {})

    def hold(self, states: dict[int, Any], at: int, state: Any) -> None:
        """Hold a state if it fits."""
        if self._held + _size(state) <= self.memory:
            states[at] = state
            self._held += _size(state)

    def _retain(self, wanted: Callable[[int], bool]) -> None:
        """Let go of the states at other numbers of blocks than these."""
        self._states = {
            batch: {at: state for at, state in states.items() if wanted(at)}
            for batch, states in self._states.items()
        }
        if not any(self._states.values()):
            self._states.clear()
            self._batches.clear()
        self._held = sum(
            _size(state) for states in self._states.values() for state in states.values()
        )


@dataclass
class _Call:
    """What happens in one call of a model."""

    forks: Forks
    visit: Visit
    states: dict[int, Any] | None = None
    start: int = 0

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find where this batch can start."""
        batch = kwargs.get("input_ids")
        self.states, self.start = None, 0
        if kwargs.get("use_cache") is False and isinstance(batch, Tensor):
            self.states = self.forks.states(batch)
            held = (at for at in self.states if at <= self.visit.start)
            self.start = max(held, default=0)

    def stand_in(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return what a block does instead of its own forward pass."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self.states is None:
                return forward(*args, **kwargs)
            if index < self.start:
                self.forks.spared += 1
                state = self.states[self.start]
                if index == self.start - 1:
                    return state
                entering = args[0] if args else kwargs["hidden_states"]
                return (entering,) if isinstance(state, tuple) else entering
            self.forks.applied += 1
            result = forward(*args, **kwargs)
            if index + 1 in self.visit.keep and _is_state(result):
                self.forks.hold(self.states, index + 1, result)
            return result

        return run


def find_blocks(model: nn.Module, depth: int) -> list[Any] | None:
    """Return the outermost list of `depth` modules in a model, or None."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    return None


def _is_state(result: Any) -> bool:
    """Whether a block's result is the hidden state and nothing else."""
    return isinstance(result, Tensor) or (
        isinstance(result, tuple) and len(result) == 1 and isinstance(result[0], Tensor)
    )


def _size(state: Any) -> int:
    tensor: torch.Tensor = state[0] if isinstance(state, tuple) else state
    return tensor.nelement() * tensor.element_size()
