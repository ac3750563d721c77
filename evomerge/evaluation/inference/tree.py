"""Scoring candidates together whose paths begin with the same blocks, by a trie of paths.

Candidates whose first blocks are the same (same parents, same layers, same scales) have the same
hidden states after these blocks, for each batch of prompts. If the candidates are visited in
depth-first order of the trie, every distinct block is run only once per batch. Hidden states are
kept only where paths fork, and only until the last candidate that needs them has been scored. Each
block gets the same inputs as if the candidate were scored alone, so the scores are the same, bit
for bit.

Generation is not shared: there every candidate reads the tokens that it has generated itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

BlockKeys: TypeAlias = tuple[str, ...]
"""A key for each block of a model, in order. Two models whose trails begin with the same n keys
have the same hidden states after their first n blocks."""


@dataclass(frozen=True)
class Step:
    """The scoring of one candidate. A state is the hidden state after the first n blocks.

    Attributes:
        number: the candidate's index.
        start: the state to start from: how many of its first blocks have been run already, by
            the candidate visited before it.
        keep: the states to keep for later candidates, as numbers of blocks.
        needed: the kept states, new and older ones, that are still needed after this visit.
    """

    number: int
    start: int
    keep: frozenset[int]
    needed: frozenset[int]


def steps(block_keys_of_all: Sequence[BlockKeys]) -> list[Step]:
    """Return visits to all candidates, in an order in which every distinct block runs once.

    The order of two trails does not depend on the other trails. The sum of `len(trail) - start`
    over the visits is the number of nodes of the trie.
    """
    order = sorted(
        range(len(block_keys_of_all)), key=lambda number: (block_keys_of_all[number], number)
    )
    starts = [0] + [_common(block_keys_of_all[a], block_keys_of_all[b]) for a, b in pairwise(order)]
    turns: list[Step] = []
    for turn, number in enumerate(order):
        ahead: set[int] = set()
        reach = len(block_keys_of_all[number])
        for later in starts[turn + 1 :]:
            reach = min(reach, later)
            if not reach:
                break
            if later == reach:
                ahead.add(later)
        keep = frozenset(depth for depth in ahead if depth > starts[turn])
        turns.append(Step(number, starts[turn], keep, frozenset(ahead)))
    return turns


def _common(one: BlockKeys, other: BlockKeys) -> int:
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))


@dataclass
class PrefixCache:
    """Keeps the hidden states at forks, by batch and number of blocks, within a memory limit.

    A state that does not fit is not kept; candidates that need it start from the nearest earlier
    state, or from the embeddings.

    Attributes:
        memory: maximum bytes of states.
        applied: how often a block was run on a batch so far.
        skipped: how often a block was not run, because the state after it was kept.
    """

    memory: int
    applied: int = 0
    skipped: int = 0
    _states: dict[int, dict[int, Any]] = field(default_factory=dict)
    _batches: dict[int, Tensor] = field(default_factory=dict)
    _held: int = 0

    @contextmanager
    def visit(self, model: nn.Module, visit: Step, depth: int) -> Iterator[None]:
        """While the context is open, a model starts from kept states and new ones are kept.

        Args:
            model: the candidate. Scoring must call it with `use_cache=False`, and pass the same
                tensor as `input_ids` for the same batch.
            visit: the candidate's visit.
            depth: its number of blocks.
        """
        # Deeper states belong to another path. Some are left if the candidate before has failed.
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
        """Return the states kept for a batch."""
        self._batches.setdefault(id(batch), batch)  # an id is reused once its tensor is gone
        return self._states.setdefault(id(batch), {})

    def hold(self, states: dict[int, Any], at: int, state: Any) -> None:
        """Keep a state if it fits into memory."""
        if self._held + _size(state) <= self.memory:
            states[at] = state
            self._held += _size(state)

    def _retain(self, wanted: Callable[[int], bool]) -> None:
        """Drop all states except those whose number of blocks is wanted."""
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
    """One forward pass of a model on a batch."""

    forks: PrefixCache
    visit: Step
    states: dict[int, Any] | None = None
    start: int = 0

    def begin(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the latest kept state that this batch can start from."""
        batch = kwargs.get("input_ids")
        self.states, self.start = None, 0
        if kwargs.get("use_cache") is False and isinstance(batch, Tensor):
            self.states = self.forks.states(batch)
            held = (at for at in self.states if at <= self.visit.start)
            self.start = max(held, default=0)

    def stand_in(self, index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Return a replacement for a block's forward method, which runs the block if needed."""

        def run(*args: Any, **kwargs: Any) -> Any:
            if self.states is None:
                return forward(*args, **kwargs)
            if index < self.start:
                self.forks.skipped += 1
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
    """Return the outermost `ModuleList` of length `depth` in a model, or None."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    return None


def _is_state(result: Any) -> bool:
    """Return whether a block's result is only the hidden state."""
    return isinstance(result, Tensor) or (
        isinstance(result, tuple) and len(result) == 1 and isinstance(result[0], Tensor)
    )


def _size(state: Any) -> int:
    tensor: torch.Tensor = state[0] if isinstance(state, tuple) else state
    return tensor.nelement() * tensor.element_size()
