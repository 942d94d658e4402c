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

__all__ = ["DeviceArrays", "Held", "Kind", "Place"]

Ints = NDArray[np.int64]


class Place(NamedTuple):
    """Where rows are held: a bucket, and one of its halves."""

    bucket: int
    half: int


class Kind(NamedTuple):
    """Of a run."""

    before: Place
    after: Place
    full: bool
    steps: int


class Held:
    """What is held in a place, as long as no run writes there; it is fetched as a whole when it is first asked for."""

    def __init__(self, buffers: Sequence[Buffer], bucket: int) -> None:
        self._buffers, self.bucket = buffers, bucket

    @cached_property
    def arrays(self) -> list[NDArray[Any]]:
        """The token [R] and the state, each [R, H]."""
        return [buffer.read() for buffer in self._buffers]


class DeviceArrays:
    """Arrays for every bucket, and every kind of run bound to its own.

    Args:
        buckets: ascending.
        staged: rows that may come in with a run, S.
        steps: numbers of steps of a run, by whether it is the full graph's.

    Raises:
        CannotRun: if there is not memory enough.
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
        """Of all runs that there may be."""
        return list(self._bound)

    def held(self, place: Place) -> Held:
        return Held([self._held[place][name] for name in self._names], place.bucket)

    def stage(self, arrays: Sequence[NDArray[Any]]) -> None:
        """The rows that come in with the next run: token [S], and the state, each [S, H]."""
        for name, array in zip(self._names, arrays, strict=True):
            self._of(f"staged_{name}", array.shape).write(array)

    def give(self, kind: Kind, source: Ints, inputs: RunInput) -> None:
        """What the next run, which is of this kind, takes.

        Args:
            source: [bucket].
            inputs: of as many rows as the bucket has, or fewer in `forced` and `uniform`.
        """
        bucket = kind.after.bucket
        given: dict[str, NDArray[Any]] = {
            "source": source,
            "forced": _padded(inputs.forced, bucket),
            "uniform": _padded(inputs.uniform, bucket),
            "temperature": inputs.temperature,
        }
        if kind.full:
            limits = inputs.limits
            given |= {"bias": limits.bias, "top_k": limits.top_k, "top_p": limits.top_p, "min_p": limits.min_p}
        for name, array in given.items():
            self._of(name, array.shape).write(array)

    def run(self, kind: Kind, *, captured: bool) -> Ints:
        """Runs with what was given last; returns what came out, [K, bucket]."""
        self._bound[kind].run(captured=captured)
        return self._of("tokens", (kind.steps, kind.after.bucket)).read()

    def logprobs(self, kind: Kind) -> NDArray[np.float32]:
        """Of the last run, which was of this kind: [K, bucket, V]."""
        return self._of("logprobs", (kind.steps, kind.after.bucket, self._vocab)).read()

    def _of(self, name: str, shape: tuple[int, ...]) -> Buffer:
        """What runs of that shape share."""
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
            {spec.name: before.get(spec.name) or self._made(spec, sizes) for spec in inputs},
            {spec.name: after.get(spec.name.removesuffix("_next")) or self._made(spec, sizes) for spec in outputs},
        )

    def _specs(self, kind: Kind) -> tuple[Sequence[TensorSpec], Sequence[TensorSpec]]:
        shape, steps = self._shape, kind.steps
        if kind.full:
            outputs = full_outputs(shape, self._vocab)
            return device_inputs(shape, full_inputs(shape, self._vocab), steps), device_outputs(outputs, steps)
        return device_inputs(shape, decode_inputs(shape), steps), device_outputs(decode_outputs(shape), steps)

    def _made(self, spec: TensorSpec, sizes: Mapping[str, int]) -> Buffer:
        shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
        key = spec.name, shape
        if key not in self._buffers:
            self._buffers[key] = self._runner.buffer(shape, np.int64 if spec.type == INT64 else np.float32)
        return self._buffers[key]


def _padded(array: NDArray[Any], columns: int) -> NDArray[Any]:
    """Zeros for the rows that are not used: what comes of them is not looked at."""
    if array.shape[1] == columns:
        return array
    padded = np.zeros((len(array), columns), array.dtype)
    padded[:, : array.shape[1]] = array
    return padded
