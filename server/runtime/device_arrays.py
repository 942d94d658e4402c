"""A model's arrays on a device, and its graphs bound to them.

Rows are held in places: each bucket, a number of rows that a run may have, has two halves. A run reads one place and
writes the other half of the same or of another bucket, never what it reads: to capture a graph is to run it repeatedly.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.graph_contract import (
    INT64,
    TensorSpec,
    decode_inputs,
    decode_outputs,
    device_inputs,
    device_outputs,
    full_inputs,
    full_outputs,
)
from bundle.manifest import Manifest
from server.engine.state_store import RunInput
from server.runtime.device_runner import Bound, Buffer, DeviceRunner

__all__ = ["DeviceArrays", "HeldRows", "Kind", "Place"]

Ints = NDArray[np.int64]


class Place(NamedTuple):
    """Where rows are held: a bucket, and one of its halves."""

    bucket: int
    half: int


class Kind(NamedTuple):
    """A kind of run: the places that it reads and writes, its graph, and its steps."""

    before: Place
    after: Place
    full: bool
    steps: int


class HeldRows:
    """The rows in a place, as long as no run writes there; all are fetched when the first is asked for."""

    def __init__(self, buffers: Sequence[Buffer], bucket: int) -> None:
        self._buffers, self.bucket = buffers, bucket

    @cached_property
    def arrays(self) -> list[NDArray[Any]]:
        """The tokens [R], and the hidden states, each [R, H]."""
        return [buffer.read() for buffer in self._buffers]


class DeviceArrays:
    """Arrays for every bucket, and every kind of run bound to its own.

    Args:
        buckets: numbers of rows that a run may have, ascending.
        staged: rows that may come in with a run, S.
        steps: step counts of a run, by whether it is the full graph's.

    Raises:
        CannotRun: there is not enough memory.
    """

    def __init__(
        self,
        runner: DeviceRunner,
        manifest: Manifest,
        buckets: Sequence[int],
        staged: int,
        steps: Mapping[bool, Sequence[int]],
    ) -> None:
        self._runner, self._shape, self._vocab, self._staged = runner, manifest.model, len(manifest.symbols), staged
        self._names = ["token", *manifest.model.state_names]
        self._buffers: dict[tuple[str, tuple[int, ...]], Buffer] = {}
        self._held = {Place(bucket, half): self._empty(bucket) for bucket, half in product(buckets, (0, 1))}
        kinds = (
            Kind(Place(before, half), Place(after, 1 - half), full, number)
            for before, after, half, full in product(buckets, buckets, (0, 1), steps)
            for number in steps[full]
        )
        self._bound = {kind: self._bind(kind) for kind in kinds}

    @property
    def kinds(self) -> list[Kind]:
        """All kinds of run, in the order in which they were bound."""
        return list(self._bound)

    def rows_at(self, place: Place) -> HeldRows:
        return HeldRows([self._held[place][name] for name in self._names], place.bucket)

    def stage(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Write the rows that come in with the next run: tokens [S], and hidden states, each [S, H]."""
        for name, array in zip(self._names, arrays, strict=True):
            self._buffer(f"staged_{name}", array.shape).write(array)

    def give(self, kind: Kind, source: Ints, run_input: RunInput) -> None:
        """Write what the next run takes, which is of this kind.

        Args:
            source: [bucket], the place where each row begins.
            run_input: for as many rows as the bucket has, or fewer in `forced` and `uniform`.
        """
        bucket = kind.after.bucket
        given: dict[str, NDArray[Any]] = {
            "source": source,
            "forced": _pad(run_input.forced, bucket),
            "uniform": _pad(run_input.uniform, bucket),
            "temperature": run_input.temperature,
        }
        if kind.full:
            limits = run_input.limits
            given |= {"bias": limits.bias, "top_k": limits.top_k, "top_p": limits.top_p, "min_p": limits.min_p}
        for name, array in given.items():
            self._buffer(name, array.shape).write(array)

    def run(self, kind: Kind, *, captured: bool) -> Ints:
        """Run with what was given last; return what came out, [K, bucket]."""
        self._bound[kind].run(captured=captured)
        return self._buffer("tokens", (kind.steps, kind.after.bucket)).read()

    def give_up_capture(self, kind: Kind) -> None:
        """Free what this thread has captured of such runs. Raises CannotRun."""
        self._bound[kind].give_up_capture()

    def close(self) -> None:
        """Let go of all arrays and of what is bound to them, in this thread: nothing else may be called after it."""
        for held in (self._bound, self._held, self._buffers):
            held.clear()
        del self._runner

    def logprobs(self, kind: Kind) -> NDArray[np.float32]:
        """Return the log-probabilities of the last run, which was of this kind: [K, bucket, V]."""
        return self._buffer("logprobs", (kind.steps, kind.after.bucket, self._vocab)).read()

    def _buffer(self, name: str, shape: tuple[int, ...]) -> Buffer:
        """Return the buffer that runs of that shape share."""
        return self._buffers[name, shape]

    def _empty(self, bucket: int) -> dict[str, Buffer]:
        shapes = dict.fromkeys(self._shape.state_names, (bucket, self._shape.hidden))
        states = {name: self._runner.buffer(shape, np.float32) for name, shape in shapes.items()}
        return {"token": self._runner.buffer((bucket,), np.int64), **states}

    def _bind(self, kind: Kind) -> Bound:
        before, after = self._held[kind.before], self._held[kind.after]
        sizes = {"R": kind.before.bucket, "B": kind.after.bucket, "S": self._staged}
        inputs, outputs = self._specs(kind)
        return self._runner.bind(
            kind.full,
            kind.steps,
            {spec.name: before.get(spec.name) or self._share(spec, sizes) for spec in inputs},
            {spec.name: after.get(spec.name.removesuffix("_next")) or self._share(spec, sizes) for spec in outputs},
        )

    def _specs(self, kind: Kind) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
        shape, steps = self._shape, kind.steps
        if kind.full:
            outputs = full_outputs(shape, self._vocab)
            return device_inputs(shape, full_inputs(shape, self._vocab), steps), device_outputs(outputs, steps)
        return device_inputs(shape, decode_inputs(shape), steps), device_outputs(decode_outputs(shape), steps)

    def _share(self, spec: TensorSpec, sizes: Mapping[str, int]) -> Buffer:
        shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
        key = spec.name, shape
        if key not in self._buffers:
            self._buffers[key] = self._runner.buffer(shape, np.int64 if spec.type == INT64 else np.float32)
        return self._buffers[key]


def _pad(array: NDArray[Any], columns: int) -> NDArray[Any]:
    """Add zeros for rows that are not used: what comes of them is not looked at."""
    if array.shape[1] == columns:
        return array
    padded = np.zeros((len(array), columns), array.dtype)
    padded[:, : array.shape[1]] = array
    return padded
