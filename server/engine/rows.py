"""The running rows of one area: what their steps depend on. Parameters are here, states in their store.

Slots are the scheduler's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.engine.draws import Draws
from server.engine.messages import Generation, RowState
from server.engine.state_store import Inputs, Limits, Outcomes, States, nothing

__all__ = ["Rows"]


class Rows:
    """Room for `max_rows` rows; `vocab` is the number of characters."""

    def __init__(self, states: States, vocab: int, max_rows: int) -> None:
        self._states, self._vocab = states, vocab
        self._position = np.zeros(max_rows, np.uint64)
        self._seed = np.zeros(max_rows, np.uint64)
        self._continuation = np.zeros(max_rows, np.uint64)
        self._draws = Draws()
        self._temperature = np.ones(max_rows, np.float32)
        self._top_k = np.full(max_rows, vocab, np.int64)
        self._top_p = np.ones(max_rows, np.float32)
        self._min_p = np.zeros(max_rows, np.float32)
        # Of most rows it is zeros, whose memory the system does not give before something is written there.
        self._bias = np.zeros((max_rows, vocab), np.float32)
        self._biased = np.zeros(max_rows, bool)

    def position(self, slot: int) -> int:
        """Of the last character of the row."""
        return int(self._position[slot])

    def put(self, slot: int, row: RowState, wanted: Generation) -> None:
        self._states.put(slot, row)
        sampling = wanted.sampling
        self._position[slot], self._seed[slot] = row.position, wanted.seed
        self._continuation[slot], self._temperature[slot] = wanted.continuation, sampling.temperature
        self._top_k[slot] = sampling.top_k or self._vocab
        self._top_p[slot], self._min_p[slot] = sampling.top_p, sampling.min_p
        self._clear_bias(slot)
        if sampling.bias:
            chars, bias = zip(*sampling.bias, strict=True)
            self._bias[slot, list(chars)], self._biased[slot] = bias, True

    def take(self, slot: int) -> RowState:
        """A copy of what is in the slot."""
        return self._states.take(slot, self.position(slot))

    def take_before(self, slot: int, steps: int) -> RowState:
        """A copy of what was in the slot before the last run, which had so many steps."""
        return self._states.take_before(slot, self.position(slot) - steps)

    def move(self, source: int, target: int) -> None:
        self._states.move(source, target)
        for parameter in self._parameters():
            parameter[target] = parameter[source]
        self._clear_bias(target)
        if self._biased[source]:
            self._bias[target], self._biased[target] = self._bias[source], True

    def inputs(self, first: int, forced: NDArray[np.int64]) -> Inputs:
        """Of a run for the slots from `first` on, with what is forced [K, B]."""
        steps, count = forced.shape
        rows, wide = slice(first, first + count), slice(first, first + self._states.width(count))
        uniform = self._draws.numbers(*self._drawn_by(rows), steps)
        limits = Limits(self._bias[wide], self._top_k[wide], self._top_p[wide], self._min_p[wide])
        return Inputs(first, forced, uniform, self._temperature[wide], limits)

    def run(self, inputs: Inputs, *, full: bool, meanwhile: Callable[[], None] = nothing) -> Outcomes:
        """Its rows are K steps further after it, and for `meanwhile`: see States.run."""
        steps, count = inputs.forced.shape
        self._position[inputs.first : inputs.first + count] += np.uint64(steps)
        return self._states.run(inputs, full=full, meanwhile=meanwhile)

    def draw_ahead(self, first: int, count: int, steps: int) -> None:
        """Makes the random numbers for a run that probably comes next."""
        self._draws.ahead(*self._drawn_by(slice(first, first + count)), steps)

    def _drawn_by(self, rows: slice) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
        """Seed, position of the next outcome, and continuation."""
        return self._seed[rows], self._position[rows] + np.uint64(1), self._continuation[rows]

    def _parameters(self) -> list[NDArray[Any]]:
        return [
            self._position,
            self._seed,
            self._continuation,
            self._temperature,
            self._top_k,
            self._top_p,
            self._min_p,
        ]

    def _clear_bias(self, slot: int) -> None:
        if self._biased[slot]:
            self._bias[slot], self._biased[slot] = 0, False
