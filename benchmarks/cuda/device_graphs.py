"""The decode graphs for a device, without an engine: the time of a run, with and without the copies around it."""

from collections.abc import Mapping
from itertools import cycle
from typing import NamedTuple

import numpy as np

from benchmarks.speed.graphs import seconds_of
from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import Precision
from bundle.read import Bundle, decode_file
from server.engine.state_store import RunInput, idle_input
from server.runtime.device_arrays import DeviceArrays, Kind
from server.runtime.device_runner import Bound, Buffer, DeviceRunner
from server.runtime.host_runner import Provider

__all__ = ["Step", "runner_of", "time_steps"]


class Step(NamedTuple):
    """Seconds of a step: of the graph alone, and with the engine's copies in and out."""

    alone: float
    copied: float


class RecordingRunner(DeviceRunner):
    """A runner that keeps what it bound, in the order of `DeviceArrays.kinds`, so that it can run without copies."""

    bound: list[Bound]

    def bind(self, full: bool, steps: int, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Bound:
        self.bound.append(super().bind(full, steps, inputs, outputs))
        return self.bound[-1]


def runner_of(bundle: Bundle, precision: Precision, provider: Provider) -> RecordingRunner:
    """Raises CannotRun, RuntimeMissing."""
    graphs = {(False, steps): bundle.files[decode_file(precision, steps)] for steps in DEVICE_STEPS}
    return RecordingRunner(graphs, threads=1, provider=provider, tf32=False)


def time_steps(runner: RecordingRunner, bundle: Bundle, rows: int, seconds: float) -> dict[int, Step]:
    """Return the times by the number of steps of a run, in a bucket of `rows`. Raises CannotRun."""
    vocab, source = len(bundle.manifest.symbols), np.arange(rows)
    runner.bound = []
    arrays = DeviceArrays(runner, bundle.manifest, [rows], 1, {False: DEVICE_STEPS})
    bound = dict(zip(arrays.kinds, runner.bound, strict=True))

    def with_copies(kind: Kind, inputs: RunInput) -> None:
        arrays.give(kind, source, inputs)
        arrays.run(kind, captured=True)

    def time_run(steps: int) -> Step:
        inputs = idle_input(rows, rows, steps, vocab)
        halves = cycle(kind for kind in arrays.kinds if kind.steps == steps)
        # First with copies: that writes what the others run with, and captures.
        copied = seconds_of(lambda: with_copies(next(halves), inputs), seconds)
        alone = seconds_of(lambda: bound[next(halves)].run(captured=True), seconds)
        return Step(alone / steps, copied / steps)

    return {steps: time_run(steps) for steps in DEVICE_STEPS}
