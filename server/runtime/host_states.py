"""A state store in the host's memory: arrays in two halves that alternate, so a run takes views and copies nothing."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest, ModelShape
from server.engine.messages import RowState
from server.engine.plan import LONE_STEPS, MAX_STEPS, PREFILL_ROWS, Area, RunLimits
from server.engine.state_store import LOGPROBS, Measure, RunInput, RunOutput, States, do_nothing, idle_input
from server.runtime.host_runner import Runner

__all__ = ["HostStates", "HostStore"]

# Up to FEW_ROWS rows the longest runs are warmed up, beyond it short ones.
FEW_ROWS, SHORT_RUN = 16, 4

Array = NDArray[np.generic]


class HostStates:
    """States of up to `max_rows` rows in groups of `max_batch`, which are runs of their own.

    Args:
        logprobs: runs of the full graph write here; [N], at least max_batch x V.
    """

    def __init__(
        self, runner: Runner, manifest: Manifest, max_rows: int, max_batch: int, logprobs: NDArray[np.float32]
    ) -> None:
        self._runner, self._vocabulary, self._vocab = runner, manifest.vocabulary, len(manifest.symbols)
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

    def run(self, run_input: RunInput, *, full: bool, meanwhile: Callable[[], None] = do_nothing) -> RunOutput:
        # Before the run: beside it the graph would have to share the processor.
        meanwhile()
        steps, rows = run_input.forced.shape
        half = self._current(run_input.first)
        before, after = self._views(half, run_input.first, rows), self._views(1 - half, run_input.first, rows)
        loop = (run_input.forced, run_input.uniform, run_input.temperature)
        tokens = np.empty((steps, rows), np.int64)
        logprobs = self._logprobs[: full * steps * rows * self._vocab].reshape(-1, rows, self._vocab)
        begin = time.perf_counter()
        if full:
            limits = run_input.limits
            bounds = (limits.bias, limits.top_k, limits.top_p, limits.min_p)
            self._runner.full(before, loop, bounds, tokens, logprobs, after)
        else:
            self._runner.decode(before, loop, tokens, after)
        seconds = time.perf_counter() - begin
        self._half[run_input.first // self._max_batch] = 1 - half
        return RunOutput(tokens, lambda: logprobs, seconds, self._vocabulary)

    def warm_up(self, measure: Measure) -> None:
        """Run batches of every class of size, so that no first use is slow and the step times are known."""
        most, scores = min(self._max_batch, self._max_rows), len(self._logprobs) // self._vocab
        for rows in sorted({min(2**power, most) for power in range(most.bit_length() + 1)}):
            for full in (False, True):
                longest = MAX_STEPS if rows <= FEW_ROWS else SHORT_RUN
                for steps in sorted({1, min(longest, scores // rows) if full else longest}):
                    outcomes = self.run(idle_input(rows, rows, steps, self._vocab), full=full)
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
    """The states of the rows of both areas."""

    def __init__(self, runner: Runner, manifest: Manifest, max_rows: int, max_batch: int) -> None:
        vocab = len(manifest.symbols)
        # The system gives the memory as it is used.
        logprobs = np.empty(max(LOGPROBS, max_batch * vocab), np.float32)
        prefill_rows, steps = min(PREFILL_ROWS, max_batch), range(1, LONE_STEPS + 1)
        self.limits = RunLimits(
            max_rows=max_rows,
            max_batch=max_batch,
            steps=steps,
            full_steps=steps,
            max_scores=len(logprobs) // vocab,
            prefill_rows=prefill_rows,
            newcomers=max_rows,
            overlaps=False,
        )
        self.states: Mapping[Area, States] = {
            Area.DECODE: HostStates(runner, manifest, max_rows, max_batch, logprobs),
            Area.PREFILL: HostStates(runner, manifest, prefill_rows, prefill_rows, logprobs),
        }

    def close(self) -> None:
        """Do nothing: memory of the host is freed when nobody has it."""


def _halves(shape: ModelShape, max_rows: int) -> list[NDArray[np.float32]]:
    # Filled, so that the memory is there from the start and not taken while texts wait for it.
    return [np.full((2, max_rows, shape.hidden), 0, np.float32) for _ in shape.state_names]
