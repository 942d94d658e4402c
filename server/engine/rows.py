"""The rows of one area: the parameters that their steps depend on, and their random numbers.

Hidden states are kept by the store, slots are given by the scheduler.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.philox import uniforms
from server.engine.messages import Request, RowState
from server.engine.state_store import Limits, RunInput, RunOutput, States, do_nothing

__all__ = ["Rows"]

Words = NDArray[np.uint64]
Floats = NDArray[np.float32]


class Rows:
    """The parameters of up to `max_rows` rows; `vocab` is the size of the vocabulary."""

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
        # For most rows it is zeros, whose memory the system does not give before something is written there.
        self._bias = np.zeros((max_rows, vocab), np.float32)
        self._biased = np.zeros(max_rows, bool)

    def position(self, slot: int) -> int:
        """Return the position of the row's last character."""
        return int(self._position[slot])

    def put(self, slot: int, row: RowState, request: Request) -> None:
        self._states.put(slot, row)
        sampling = request.sampling
        self._position[slot], self._seed[slot] = row.position, request.seed
        self._continuation[slot], self._temperature[slot] = request.continuation, sampling.temperature
        self._top_k[slot] = sampling.top_k or self._vocab
        self._top_p[slot], self._min_p[slot] = sampling.top_p, sampling.min_p
        self._clear_bias(slot)
        if sampling.bias:
            chars, bias = zip(*sampling.bias, strict=True)
            self._bias[slot, list(chars)], self._biased[slot] = bias, True

    def take(self, slot: int) -> RowState:
        """Return a copy of the slot's row."""
        return self._states.take(slot, self.position(slot))

    def take_before(self, slot: int, steps: int) -> RowState:
        """Return a copy of the slot's row as it was before the last run, which had `steps` steps."""
        return self._states.take_before(slot, self.position(slot) - steps)

    def move(self, source: int, target: int) -> None:
        self._states.move(source, target)
        sampling = (self._temperature, self._top_k, self._top_p, self._min_p)
        parameters: tuple[NDArray[Any], ...] = (self._position, self._seed, self._continuation, *sampling)
        for parameter in parameters:
            parameter[target] = parameter[source]
        self._clear_bias(target)
        if self._biased[source]:
            self._bias[target], self._biased[target] = self._bias[source], True

    def run_input(self, first: int, forced: NDArray[np.int64]) -> RunInput:
        """Return the input of a run for the slots from `first` on, with the forced tokens [K, B]."""
        steps, count = forced.shape
        rows, wide = slice(first, first + count), slice(first, first + self._states.width(count))
        uniform = self._draws.numbers(*self._draw_keys(rows), steps)
        limits = Limits(self._bias[wide], self._top_k[wide], self._top_p[wide], self._min_p[wide])
        return RunInput(first, forced, uniform, self._temperature[wide], limits)

    def run(self, run_input: RunInput, *, full: bool, meanwhile: Callable[[], None] = do_nothing) -> RunOutput:
        """See `States.run`. For `meanwhile` the rows are K steps further already."""
        steps, count = run_input.forced.shape
        self._position[run_input.first : run_input.first + count] += np.uint64(steps)
        return self._states.run(run_input, full=full, meanwhile=meanwhile)

    def draw_ahead(self, first: int, count: int, steps: int) -> None:
        """Makes the random numbers for a run that probably comes next."""
        self._draws.draw_ahead(*self._draw_keys(slice(first, first + count)), steps)

    def _draw_keys(self, rows: slice) -> tuple[Words, Words, Words]:
        """Return what random numbers depend on: seed, position of the next outcome, and continuation."""
        return self._seed[rows], self._position[rows] + np.uint64(1), self._continuation[rows]

    def _clear_bias(self, slot: int) -> None:
        if self._biased[slot]:
            self._bias[slot], self._biased[slot] = 0, False


class Draws:
    """Random numbers by (seed, position, continuation). Those of the next run can be made while the last one lasts.

    They are taken where all three are the same as they were expected to be.
    """

    def __init__(self) -> None:
        self._by, self._ahead = np.zeros((3, 0), np.uint64), np.zeros((0, 0), np.float32)

    def draw_ahead(self, seed: Words, first: Words, continuation: Words, steps: int) -> None:
        """Makes the numbers of `bundle.philox.uniforms` for later."""
        self._by, self._ahead = np.stack([seed, first, continuation]), uniforms(seed, first, steps, continuation)

    def numbers(self, seed: Words, first: Words, continuation: Words, steps: int) -> Floats:
        """Return the numbers of `bundle.philox.uniforms`."""
        if steps > len(self._ahead):
            return uniforms(seed, first, steps, continuation)
        by = np.stack([seed, first, continuation])
        known = min(by.shape[1], self._by.shape[1])
        missing = np.ones(by.shape[1], bool)
        missing[:known] = (by[:, :known] != self._by[:, :known]).any(axis=0)
        numbers = np.empty((steps, by.shape[1]), np.float32)
        numbers[:, :known] = self._ahead[:steps, :known]
        if missing.any():
            seed, first, continuation = by[:, missing]
            numbers[:, missing] = uniforms(seed, first, steps, continuation)
        return numbers
