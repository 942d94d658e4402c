"""The arrays that hold the running rows: state in two halves that alternate, parameters in one.

A run reads the current half of its group and writes the other, which then becomes current: nothing is copied, and the
state before the run is still there after it. Slots are the scheduler's.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import ModelShape
from server.values import Generation, RowState

__all__ = ["Rows"]

Array = NDArray[np.generic]


class Rows:
    """Room for `max_rows` rows in groups of `max_batch`; `vocab` is the number of characters."""

    def __init__(self, shape: ModelShape, vocab: int, max_rows: int, max_batch: int) -> None:
        self.max_batch, self.vocab = max_batch, vocab
        self.token = np.zeros((2, max_rows), np.int64)
        # Filled, so that the memory is there from the start and not taken while texts wait for it.
        self.state = [np.full((2, max_rows, shape.hidden), 0, np.float32) for _ in shape.state_names]
        self.position = np.zeros(max_rows, np.uint64)
        self.seed = np.zeros(max_rows, np.uint64)
        self.continuation = np.zeros(max_rows, np.uint64)
        self.temperature = np.ones(max_rows, np.float32)
        self.top_k = np.full(max_rows, vocab, np.int64)
        self.top_p = np.ones(max_rows, np.float32)
        self.min_p = np.zeros(max_rows, np.float32)
        # Of most rows it is zeros, whose memory the system does not give before something is written there.
        self.bias = np.zeros((max_rows, vocab), np.float32)
        self._biased = np.zeros(max_rows, bool)
        self._half = [0] * -(-max_rows // max_batch)

    def put(self, slot: int, row: RowState, wanted: Generation) -> None:
        half, sampling = self._current(slot), wanted.sampling
        self.token[half, slot] = row.token
        for array, values in zip(self.state, row.state, strict=True):
            array[half, slot] = values
        self.position[slot], self.seed[slot], self.continuation[slot] = row.position, wanted.seed, wanted.continuation
        self.temperature[slot], self.top_k[slot] = sampling.temperature, sampling.top_k or self.vocab
        self.top_p[slot], self.min_p[slot] = sampling.top_p, sampling.min_p
        self._clear_bias(slot)
        if sampling.bias:
            chars, bias = zip(*sampling.bias, strict=True)
            self.bias[slot, list(chars)], self._biased[slot] = bias, True

    def take(self, slot: int) -> RowState:
        """A copy of what is in the slot."""
        return self._copy(self._current(slot), slot, int(self.position[slot]))

    def take_before(self, slot: int, steps: int) -> RowState:
        """A copy of what was in the slot before the last run, which had so many steps."""
        return self._copy(1 - self._current(slot), slot, int(self.position[slot]) - steps)

    def move(self, source: int, target: int) -> None:
        old, new = self._current(source), self._current(target)
        for array in self._halved():
            array[new, target] = array[old, source]
        for parameter in self._single():
            parameter[target] = parameter[source]
        self._clear_bias(target)
        if self._biased[source]:
            self.bias[target], self._biased[target] = self.bias[source], True

    def before(self, first: int, count: int) -> list[Array]:
        """Views [count], [count, H], ... of the token and the state that a run reads."""
        return self._views(self._current(first), first, count)

    def after(self, first: int, count: int) -> list[Array]:
        """Views of the token and the state that a run writes."""
        return self._views(1 - self._current(first), first, count)

    def limits(self, first: int, count: int) -> list[Array]:
        """bias [count, V], top_k, top_p and min_p [count]."""
        slots = slice(first, first + count)
        return [self.bias[slots], self.top_k[slots], self.top_p[slots], self.min_p[slots]]

    def advance(self, first: int, count: int, steps: int) -> None:
        """The group's run is done: what it wrote is current, and its rows are `steps` further."""
        self._half[first // self.max_batch] ^= 1
        self.position[first : first + count] += np.uint64(steps)

    def _views(self, half: int, first: int, count: int) -> list[Array]:
        return [array[half, first : first + count] for array in self._halved()]

    def _halved(self) -> list[NDArray[Any]]:
        return [self.token, *self.state]

    def _single(self) -> list[NDArray[Any]]:
        return [self.position, self.seed, self.continuation, self.temperature, self.top_k, self.top_p, self.min_p]

    def _copy(self, half: int, slot: int, position: int) -> RowState:
        state = tuple(array[half, slot].copy() for array in self.state)
        return RowState(int(self.token[half, slot]), state, position)

    def _clear_bias(self, slot: int) -> None:
        if self._biased[slot]:
            self.bias[slot], self._biased[slot] = 0, False

    def _current(self, slot: int) -> int:
        return self._half[slot // self.max_batch]
