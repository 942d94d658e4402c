"""States in the host's memory: arrays in two halves that alternate, so that a run takes views and nothing is copied."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest, ModelShape
from server.engine.messages import RowState
from server.engine.plan import Area, Runs
from server.engine.scheduler import MAX_STEPS, READERS
from server.engine.state_store import LOGPROBS, Inputs, Measure, Outcomes, States, idle_inputs, nothing
from server.runtime.host_runner import Runner

__all__ = ["HostStates", "HostStore"]

# Up to so many rows the longest runs are warmed up, beyond it short ones.
FEW_ROWS, SHORT_RUN = 16, 4

Array = NDArray[np.generic]


class HostStates:
    """Room for `max_rows` rows in groups of `max_batch`, which are runs of their own.

    Args:
        logprobs: what runs of the full graph write; [N], for max_batch x V and more.
    """

    def __init__(
        self, runner: Runner, manifest: Manifest, max_rows: int, max_batch: int, logprobs: NDArray[np.float32]
    ) -> None:
        self._runner, self._vocab = runner, len(manifest.symbols)
        self._max_rows, self._max_batch, self._logprobs = max_rows, max_batch, logprobs
        self._token = np.zeros((2, max_rows), np.int64)
        self._state = _halves(manifest.model, max_rows)
        self._half = [0] * -(-max_rows // max_batch)

    def width(self, rows: int) -> int:
        return rows

    def put(self, slot: int, row: RowState) -> None:
        half = self._current(slot)
        self._token[half, slot] = row.token
        for array, values in zip(self._state, row.state, strict=True):
            array[half, slot] = values

    def take(self, slot: int, position: int) -> RowState:
        return self._copy(self._current(slot), slot, position)

    def take_before(self, slot: int, position: int) -> RowState:
        return self._copy(1 - self._current(slot), slot, position)

    def move(self, source: int, target: int) -> None:
        old, new = self._current(source), self._current(target)
        for array in self._arrays():
            array[new, target] = array[old, source]

    def run(self, inputs: Inputs, *, full: bool, meanwhile: Callable[[], None] = nothing) -> Outcomes:
        # Before it: beside it the graph would have to share the processor.
        meanwhile()
        steps, rows = inputs.forced.shape
        half = self._current(inputs.first)
        before, after = self._views(half, inputs.first, rows), self._views(1 - half, inputs.first, rows)
        loop = (inputs.forced, inputs.uniform, inputs.temperature)
        tokens = np.empty((steps, rows), np.int64)
        logprobs = self._logprobs[: full * steps * rows * self._vocab].reshape(-1, rows, self._vocab)
        begin = time.perf_counter()
        if full:
            limits = inputs.limits
            bounds = (limits.bias, limits.top_k, limits.top_p, limits.min_p)
            self._runner.full(before, loop, bounds, tokens, logprobs, after)
        else:
            self._runner.decode(before, loop, tokens, after)
        seconds = time.perf_counter() - begin
        self._half[inputs.first // self._max_batch] = 1 - half
        return Outcomes(tokens, lambda: logprobs, seconds)

    def warm_up(self, measure: Measure) -> None:
        """Batches of every class of size, so that no first use is slow and the step times are known."""
        most = min(self._max_batch, self._max_rows)
        for rows in sorted({min(2**power, most) for power in range(most.bit_length() + 1)}):
            for full in (False, True):
                for steps in (1, MAX_STEPS if rows <= FEW_ROWS else SHORT_RUN):
                    outcomes = self.run(idle_inputs(rows, rows, steps, self._vocab), full=full)
                    measure(rows, full, steps, outcomes.seconds)

    def _views(self, half: int, first: int, rows: int) -> list[Array]:
        return [array[half, first : first + rows] for array in self._arrays()]

    def _arrays(self) -> list[NDArray[Any]]:
        return [self._token, *self._state]

    def _copy(self, half: int, slot: int, position: int) -> RowState:
        state = tuple(array[half, slot].copy() for array in self._state)
        return RowState(int(self._token[half, slot]), state, position)

    def _current(self, slot: int) -> int:
        return self._half[slot // self._max_batch]


class HostStore:
    """The states of running and of reading rows."""

    def __init__(self, runner: Runner, manifest: Manifest, max_rows: int, max_batch: int) -> None:
        vocab = len(manifest.symbols)
        # The system gives the memory as it is used.
        logprobs = np.empty(max(LOGPROBS, max_batch * vocab), np.float32)
        readers, steps = min(READERS, max_batch), range(1, MAX_STEPS + 1)
        self.runs = Runs(
            max_rows=max_rows,
            max_batch=max_batch,
            steps=steps,
            full_steps=steps,
            max_scores=len(logprobs) // vocab,
            readers=readers,
            newcomers=max_rows,
            beside=False,
        )
        self.states: Mapping[Area, States] = {
            Area.RUNNING: HostStates(runner, manifest, max_rows, max_batch, logprobs),
            Area.READING: HostStates(runner, manifest, readers, readers, logprobs),
        }


def _halves(shape: ModelShape, max_rows: int) -> list[NDArray[np.float32]]:
    # Filled, so that the memory is there from the start and not taken while texts wait for it.
    return [np.full((2, max_rows, shape.hidden), 0, np.float32) for _ in shape.state_names]
