"""Scoring candidates together whose paths begin with the same blocks, by a trie of paths.

Candidates whose first blocks are the same (same parents, same layers, same scales) have the same
hidden states after these blocks, for each batch of prompts. If the candidates are visited in
depth-first order of the trie, every distinct block is run only once per batch. Hidden states are
kept where paths fork, until the last candidate that needs them has been scored. The scores are the
same, bit for bit. Generation is not shared, since every candidate reads its own new tokens there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

from torch import Tensor, nn

from evomerge.compat.transformers import replaced_forwards
from evomerge.evaluation.inference.rows import common

BlockKeys: TypeAlias = tuple[str, ...]
"""A key for each block of a model, in order. Two models whose keys begin with the same n keys
have the same hidden states after their first n blocks."""


@dataclass(frozen=True)
class Step:
    """The scoring of one candidate. A state is the hidden state after the first n blocks.

    Attributes:
        number: the candidate's index.
        start: the state to start from: how many of its first blocks have been run already, by
            the candidate visited before it.
        keep: the states to keep for later candidates, as numbers of blocks.
        needed: the kept states, new and older ones, that are still needed after this step.
    """

    number: int
    start: int
    keep: frozenset[int]
    needed: frozenset[int]


def steps(block_keys_of_all: Sequence[BlockKeys]) -> list[Step]:
    """Return steps for all candidates, in an order in which every distinct block runs once.

    The order of two candidates does not depend on the others.
    """
    keys = block_keys_of_all
    order = sorted(range(len(keys)), key=lambda number: (keys[number], number))
    starts = [0] + [common(keys[a], keys[b]) for a, b in pairwise(order)]
    turns: list[Step] = []
    for turn, number in enumerate(order):
        ahead: set[int] = set()
        reach = len(keys[number])
        for later in starts[turn + 1 :]:
            reach = min(reach, later)
            if not reach:
                break
            if later == reach:
                ahead.add(later)
        keep = frozenset(depth for depth in ahead if depth > starts[turn])
        turns.append(Step(number, starts[turn], keep, frozenset(ahead)))
    return turns


@dataclass
class PrefixCache:
    """Keeps the hidden states at forks, by batch and number of blocks, within a memory limit.

    If a state does not fit, candidates start from an earlier one, or from the embeddings.

    Attributes:
        memory: maximum bytes of states.
        applied: how often a block was run on a batch so far.
        skipped: how often a block was not run, because the state after it was kept.
    """

    memory: int
    applied: int = 0
    skipped: int = 0
    _states: dict[int, tuple[Tensor, dict[int, Any]]] = field(default_factory=dict)
    """Id of a batch -> the batch, since an id is used again; number of blocks -> state."""
    _held: float = 0
    """Bytes of all states."""

    @contextmanager
    def visit(self, model: nn.Module, step: Step, depth: int) -> Iterator[None]:
        """While the context is open, a model starts from kept states and new ones are kept.

        Args:
            model: the candidate. Scoring must call it with `use_cache=False`, and pass the same
                tensor as `input_ids` for the same batch.
            step: the candidate's step.
            depth: its number of blocks.
        """
        # Deeper states belong to another path. Some are left if the candidate before has failed.
        self._retain(lambda at: at <= step.start)
        stacks = (item for item in model.modules() if isinstance(item, nn.ModuleList))
        blocks: list[Any] = list(next((item for item in stacks if len(item) == depth), ()))
        states: dict[int, Any] | None = None  # of the batch that is run now
        start = 0

        def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            """Find the latest kept state that a batch can start from."""
            nonlocal states, start
            batch, states, start = kwargs.get("input_ids"), None, 0
            if kwargs.get("use_cache") is False and isinstance(batch, Tensor):
                states = self._states.setdefault(id(batch), (batch, {}))[1]
                start = max((at for at in states if at <= step.start), default=0)

        def stand_in(index: int, forward: Callable[..., Any]) -> Callable[..., Any]:
            """Return a block's forward method that runs the block only if it is needed."""

            def run(*args: Any, **kwargs: Any) -> Any:
                if states is None:
                    return forward(*args, **kwargs)
                if index < start:
                    self.skipped += 1
                    state = states[start]
                    if index == start - 1:
                        return state
                    entering = args[0] if args else kwargs["hidden_states"]
                    return (entering,) if isinstance(state, tuple) else entering
                self.applied += 1
                result = forward(*args, **kwargs)
                if index + 1 in step.keep and self._held + _size(result) <= self.memory:
                    states[index + 1] = result
                    self._held += _size(result)
                return result

            return run

        handle = model.register_forward_pre_hook(begin, with_kwargs=True)
        try:
            with replaced_forwards(blocks, stand_in):
                yield
        finally:
            handle.remove()
            self._retain(lambda at: at in step.needed)

    def _retain(self, wanted: Callable[[int], bool]) -> None:
        """Drop all states except those whose number of blocks is wanted."""
        kept = {
            key: (batch, {at: state for at, state in states.items() if wanted(at)})
            for key, (batch, states) in self._states.items()
        }
        self._states = {key: item for key, item in kept.items() if item[1]}
        sizes = (_size(at) for _, states in self._states.values() for at in states.values())
        self._held = sum(sizes)


def _size(result: Any) -> float:
    """Return the bytes of a block's result; infinity if it is not only the hidden state."""
    state = result[0] if isinstance(result, tuple) and len(result) == 1 else result
    return state.nelement() * state.element_size() if isinstance(state, Tensor) else float("inf")
