"""A state store on a device: rows join, leave and move in an index that says where each one begins in the next run."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import Manifest
from server.engine.messages import RowState
from server.engine.plan import Area, RunLimits
from server.engine.state_store import LOGPROBS, Measure, RunInput, RunOutput, States, do_nothing, idle_input
from server.runtime.device_arrays import DeviceArrays, HeldRows, Kind, Place
from server.runtime.device_runner import DeviceRunner
from server.runtime.host_runner import CannotRun

__all__ = ["STAGED", "DeviceStates", "DeviceStore", "full_steps"]

# The most rows that may come in with one run.
STAGED = 64
# The number of runs by which precisions are compared.
TIMED_RUNS = 5


class DeviceStates:
    """States of as many rows as the largest bucket has.

    A row that is put is staged on the host until the next run. When the first row is taken between two runs, all that
    the device holds is fetched.

    Args:
        buckets: numbers of rows that a run may have, ascending.
        staged: rows that may be put between two runs.
        full: step counts of the full graph.
    """

    def __init__(
        self, runner: DeviceRunner, manifest: Manifest, buckets: Sequence[int], staged: int, full: Sequence[int]
    ) -> None:
        steps = {False: DEVICE_STEPS, True: full}
        self._arrays, self._buckets = DeviceArrays(runner, manifest, buckets, staged, steps), buckets
        self._vocabulary, hidden = manifest.vocabulary, manifest.model.hidden
        self._token = np.zeros(staged, np.int64)
        self._state = [np.zeros((staged, hidden), np.float32) for _ in manifest.model.state_names]
        self._staged = 0  # rows
        self._place = Place(buckets[0], 0)
        # The index of each slot's row among the rows that are held, followed by those that are staged.
        self._source = np.zeros(buckets[-1], np.int64)
        self._held = self._held_before = self._arrays.rows_at(self._place)
        self._source_before = self._source
        self._captures = False
        self._helper = ThreadPoolExecutor(1, "beside a device")

    def width(self, rows: int) -> int:
        return next(bucket for bucket in self._buckets if bucket >= rows)

    def put(self, slot: int, row: RowState) -> None:
        self._token[self._staged] = row.token
        for array, values in zip(self._state, row.state, strict=True):
            array[self._staged] = values
        self._source[slot] = self._place.bucket + self._staged
        self._staged += 1

    def take(self, slot: int, position: int) -> RowState:
        return self._copy(self._held, int(self._source[slot]), position)

    def take_before(self, slot: int, position: int) -> RowState:
        return self._copy(self._held_before, int(self._source_before[slot]), position)

    def move(self, source: int, target: int) -> None:
        self._source[target] = self._source[source]
        # A row may move beside a run, and be asked for the state before it.
        if source < len(self._source_before):
            self._source_before[target] = self._source_before[source]

    def run(self, run_input: RunInput, *, full: bool, meanwhile: Callable[[], None] = do_nothing) -> RunOutput:
        steps, rows = run_input.forced.shape
        bucket = self.width(rows)
        kind = Kind(self._place, Place(bucket, 1 - self._place.half), full, steps)
        source = np.zeros(bucket, np.int64)
        source[:rows] = self._source[:rows]
        if self._staged:
            self._arrays.stage(self._staging)
        self._arrays.give(kind, source, run_input)
        self._held_before, self._source_before = self._held, source
        self._held, self._place, self._staged = self._arrays.rows_at(kind.after), kind.after, 0
        self._source[:rows] = np.arange(rows)
        with self._beside(meanwhile):
            tokens, seconds = self._timed_run(kind, captured=self._captures)
        return RunOutput(tokens[:, :rows], lambda: self._arrays.logprobs(kind)[:, :rows], seconds, self._vocabulary)

    def warm_up(self, measure: Measure) -> None:
        """Do every kind of run three times. From here on runs are captured: a capture belongs to its thread.

        Raises CannotRun if a captured run has other outcomes than the one before it, which was not.
        """
        for kind in self._arrays.kinds:
            self._give_idle(kind)
            plain = self._arrays.run(kind, captured=False)
            self._arrays.run(kind, captured=True)
            tokens, seconds = self._timed_run(kind, captured=True)
            if not np.array_equal(tokens, plain):
                name = f"{'full' if kind.full else 'decode'}, {kind.steps} steps, {kind.after.bucket} rows"
                raise CannotRun(f"a captured run ({name}) computes other characters than a plain one")
            measure(kind.after.bucket, kind.full, kind.steps, seconds)
        self._captures = True

    def step_seconds(self) -> float:
        """Return the seconds of a decode step, summed up over the buckets, captured as in service. Raises CannotRun."""
        return sum(self._bucket_step_seconds(bucket) for bucket in self._buckets)

    def _bucket_step_seconds(self, bucket: int) -> float:
        kind = Kind(Place(bucket, 0), Place(bucket, 1), False, DEVICE_STEPS[-1])
        self._give_idle(kind)
        self._arrays.run(kind, captured=True)
        seconds = [self._timed_run(kind, captured=True)[1] for _ in range(TIMED_RUNS)]
        # The engine's thread captures for itself.
        self._arrays.give_up_capture(kind)
        return statistics.median(seconds) / kind.steps

    def close(self) -> None:
        """Free the device's memory, in this thread; nothing else may be called after it."""
        self._helper.shutdown()
        self._held = self._held_before = HeldRows((), self._place.bucket)
        self._arrays.close()

    def _give_idle(self, kind: Kind) -> None:
        """Give a run idle rows, which all begin as the first one."""
        bucket = kind.after.bucket
        inputs = idle_input(bucket, bucket, kind.steps, len(self._vocabulary))
        self._arrays.give(kind, np.zeros(bucket, np.int64), inputs)

    def _timed_run(self, kind: Kind, *, captured: bool) -> tuple[NDArray[np.int64], float]:
        """Run; return what came out, and the seconds that it took."""
        begin = time.perf_counter()
        tokens = self._arrays.run(kind, captured=captured)
        return tokens, time.perf_counter() - begin

    @contextmanager
    def _beside(self, meanwhile: Callable[[], None]) -> Iterator[None]:
        done = self._helper.submit(meanwhile)
        try:
            yield
        finally:
            wait([done])
        done.result()

    @property
    def _staging(self) -> list[NDArray[Any]]:
        return [self._token, *self._state]

    def _copy(self, held: HeldRows, index: int, position: int) -> RowState:
        staged = index - held.bucket
        token, *state = held.arrays if staged < 0 else self._staging
        index = index if staged < 0 else staged
        return RowState(int(token[index]), tuple(array[index].copy() for array in state), position)


class DeviceStore:
    """The states of the decode area's rows, long prompts among them."""

    def __init__(self, runner: DeviceRunner, manifest: Manifest, buckets: Sequence[int], staged: int = STAGED) -> None:
        max_rows = buckets[-1]
        staged, full = min(staged, max_rows), full_steps(max_rows, len(manifest.symbols))
        self.limits = RunLimits(
            max_rows=max_rows,
            max_batch=max_rows,
            steps=DEVICE_STEPS,
            full_steps=full,
            max_scores=full[-1] * max_rows,
            prefill_rows=0,
            newcomers=staged,
            overlaps=True,
        )
        self.device = DeviceStates(runner, manifest, buckets, staged, full)
        self.states: Mapping[Area, States] = {Area.DECODE: self.device}

    def close(self) -> None:
        self.device.close()


def full_steps(max_rows: int, vocab: int) -> Sequence[int]:
    """Return the step counts of the full graph whose log-probabilities are not too many; the smallest in any case."""
    return [steps for steps in DEVICE_STEPS if steps * max_rows * vocab <= LOGPROBS] or DEVICE_STEPS[:1]
