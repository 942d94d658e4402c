"""A device's results beside the host's: states and log-probabilities after forced characters, and sampled outcomes.

How far they may differ depends on the model, so it is measured: the host runs the same with its matmuls' weights
rounded to the bits of float16, which are those of TF32 as well. A device that multiplies such numbers is about that far
off, one of float32 hundreds of times less, and one with a wrong column hundreds of times more, in that column.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle import onnx_header_pb2 as onnx
from bundle.graph_contract import DEVICE_STEPS, FLOAT
from bundle.manifest import Manifest, Precision
from bundle.probe import ROWS
from bundle.read import Bundle, decode_file, full_file
from server.engine.messages import RowState
from server.engine.state_store import LOGPROBS, States
from server.runtime.host_runner import CannotRun, Runner
from server.runtime.host_states import HostStates
from server.runtime.probe import LARGE, Pass

__all__ = ["Comparison", "matmul_weights_in_16_bits"]

Array = NDArray[Any]
STEPS = DEVICE_STEPS[-1]
# Of all columns together: how many times the change by rounded weights the difference may be.
WITH_ROUNDED_INPUTS, WITH_EXACT_INPUTS = 6.0, 0.4
# The same of one column: of few numbers, some are far off by chance.
IN_ONE_COLUMN = 12.0
# The usual error of a number that is rounded to 10 bits, as a share of it.
OUTPUT_ROUNDING = 2.0**-13
# A column that rounded weights hardly change is held to this share of what they change in the others.
QUIET_COLUMN = 0.3
# Roundings of sums in float32, as a share of what is added up.
FLOAT32_ROUNDING = 5e-7
# How far a random number must lie inside another outcome's share to show that the outcome is wrong.
MARGIN = {"fp32-cuda": 1e-3, "fp16-cuda": 2e-2}


@dataclass(frozen=True)
class Comparison:
    """Compares a device's runs with the host's.

    Attributes:
        rounds: the device may round what it multiplies to 10 bits: in fp16-cuda, and with TF32.
    """

    bundle: Bundle
    precision: Precision
    rounds: bool

    def check(self, states: States, full: bool, rows: int, steps: int, newcomers: int) -> None:
        """Raise CannotRun unless the device computes in such runs what the host does.

        Args:
            rows, steps: of a run.
            newcomers: how many rows may come in with a run.
        """
        count = len(self._forced[0])
        most = min(rows, newcomers)
        found = [
            self._pass(states, full, rows, steps, slice(first, first + most)).run(self._manifest)
            for first in range(0, count, most)
        ]
        over_steps = 2 if full else 1  # arrays [K, n, ...]; in all others rows come first
        tokens, *arrays = (
            np.concatenate(parts, axis=int(number < over_steps))
            for number, parts in enumerate(zip(*found, strict=True))
        )
        if not np.array_equal(tokens, self._forced):
            raise CannotRun(f"{self._name(full, rows, steps)}: the device does not go on from forced characters")
        arrays = [array for array in arrays if array.dtype == np.float32]
        pairs = zip(arrays, self._host(full), self._noise(full), strict=True)
        for name, (array, host, noise) in zip(self._names(full), pairs, strict=True):
            self._compare(f"{self._name(full, rows, steps)}, {name}", array, host, noise)

    def check_outcomes(self, one: Pass, outcomes: Array) -> None:
        """Raise CannotRun if an outcome [K, n] that was sampled lies outside its share of the host's distribution.

        Runs of the full graph have limits, and their log-probabilities are compared. In a large vocabulary the host
        would take long.
        """
        if one.full or len(self._manifest.symbols) > LARGE:
            return
        logprobs = self._host_pass(self._exact, outcomes, one.uniform, None).run(self._manifest)[1]
        sampled = one.forced < 0
        shares = np.exp(logprobs[sampled].astype(np.float64))
        after = np.cumsum(shares, axis=1)
        at = np.arange(len(after)), outcomes[sampled]
        end, begin = after[at], after[at] - shares[at]
        u, margin = one.uniform[sampled], MARGIN[self.precision]
        if not (wrong := (u < begin - margin) | (u > end + margin)).any():
            return
        raise CannotRun(
            f"the device samples {wrong.sum()} of {len(u)} characters that the host's probabilities rule out"
        )

    def _compare(self, name: str, found: Array, host: Array, noise: Array) -> None:
        """Compare arrays [..., columns]; `noise` is the change by rounded weights."""
        size = found.shape[-1]
        found, host, noise = (array.reshape(-1, size).astype(np.float64) for array in (found, host, noise))
        if not np.isfinite(found).all():
            raise CannotRun(f"{name}: not finite on the device")
        usual, rounding = _rms(noise), FLOAT32_ROUNDING * _rms(host)
        columns = np.hypot(_rms(noise, 0), QUIET_COLUMN * usual)
        off = _rms(found - host) / (usual + rounding)
        worst = (_rms(found - host, 0) / (columns + rounding)).max()
        most = WITH_ROUNDED_INPUTS if self.rounds else WITH_EXACT_INPUTS
        if off > most or worst > IN_ONE_COLUMN:
            raise CannotRun(
                f"{name}: the device is {off:.2g} times as far from the host as weights of 16 bits would be, in one "
                f"column {worst:.2g} times; expected of {self._arithmetic} at most {most:g} and {IN_ONE_COLUMN:g}"
            )

    @property
    def _arithmetic(self) -> str:
        return self.precision if self.rounds == (self.precision == "fp16-cuda") else f"{self.precision} with TF32"

    def _name(self, full: bool, rows: int, steps: int) -> str:
        return f"{'full' if full else 'decode'}, {steps} steps, {rows} rows"

    def _names(self, full: bool) -> Iterator[str]:
        if full:
            yield "log-probabilities"
        yield from self._manifest.model.state_names

    def _pass(self, states: States, full: bool, rows: int, steps: int, part: slice) -> Pass:
        forced, uniform = self._forced[:, part], np.zeros(self._forced[:, part].shape, np.float32)
        return Pass(states, full, rows, steps, forced, uniform, ends=True, begin=self._begin[part])

    def _host(self, full: bool) -> list[Array]:
        return self._exact_result if full else self._exact_result[1:]

    def _noise(self, full: bool) -> list[Array]:
        return self._changes if full else self._changes[1:]

    @cached_property
    def _changes(self) -> list[Array]:
        rounded = self._runner(lambda graph: matmul_weights_in_16_bits(graph, outputs_too=self.rounds))
        return [a.astype(np.float64) - b for a, b in zip(self._host_result(rounded), self._exact_result, strict=True)]

    @cached_property
    def _exact_result(self) -> list[Array]:
        return self._host_result(self._exact)

    def _host_result(self, runner: Runner) -> list[Array]:
        """Return log-probabilities [K, n, V] and states [n, H]."""
        uniform = np.zeros(self._forced.shape, np.float32)
        _, *arrays = self._host_pass(runner, self._forced, uniform, self._begin).run(self._manifest)
        return [array for array in arrays if array.dtype == np.float32]

    def _host_pass(self, runner: Runner, forced: Array, uniform: Array, begin: Sequence[RowState] | None) -> Pass:
        (steps, rows), vocab = forced.shape, len(self._manifest.symbols)
        states = HostStates(runner, self._manifest, rows, rows, np.empty(steps * rows * vocab, np.float32))
        return Pass(states, True, rows, steps, forced, uniform, ends=True, begin=begin)

    @cached_property
    def _exact(self) -> Runner:
        return self._runner(lambda graph: graph)

    def _runner(self, change: Callable[[bytes], bytes]) -> Runner:
        files, vocab = self.bundle.files, len(self._manifest.symbols)
        full = change(files[full_file("fp32")])
        return Runner(files[decode_file("fp32")], full, self._manifest.model, vocab, threads=1)

    @cached_property
    def _forced(self) -> NDArray[np.int64]:
        """Any characters, [K, n]."""
        vocab = len(self._manifest.symbols)
        return np.random.default_rng(0).integers(0, vocab, (STEPS, max(1, min(ROWS, LOGPROBS // (STEPS * vocab)))))

    @cached_property
    def _begin(self) -> list[RowState]:
        """Any states: those of a text's first characters are small, and hide what a matmul gets wrong."""
        rng, shape = np.random.default_rng(1), self._manifest.model
        return [
            RowState(0, tuple(rng.uniform(-1, 1, shape.hidden).astype(np.float32) for _ in shape.state_names), 0)
            for _ in self._forced[0]
        ]

    @property
    def _manifest(self) -> Manifest:
        return self.bundle.manifest


def matmul_weights_in_16_bits(graph: bytes, *, outputs_too: bool) -> bytes:
    """Return a graph of float32 whose matmuls' weights have the bits of float16.

    Args:
        outputs_too: their columns are a little too large or too small, as results are that are rounded to 16 bits.
    """
    model = onnx.Model.FromString(graph)
    graphs = [model.graph, *(a.g for node in model.graph.node for a in node.attribute if a.HasField("g"))]
    names = {node.input[1] for graph in graphs for node in graph.node if node.op_type == "MatMul"}
    for tensor in (tensor for graph in graphs for tensor in graph.initializer):
        if tensor.name in names and tensor.data_type == FLOAT:
            rounded = _to_10_bits(np.frombuffer(tensor.raw_data, np.float32).reshape(tensor.dims))
            signs = np.random.default_rng(2).choice(np.array([-1, 1], np.float32), rounded.shape[-1])
            tensor.raw_data = (rounded * (1 + outputs_too * OUTPUT_ROUNDING * signs)).astype(np.float32).tobytes()
    return model.SerializeToString()


def _to_10_bits(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round to 10 bits behind the first one, of any size."""
    mantissa, exponent = np.frexp(x)
    rounded: NDArray[np.float32] = np.ldexp(np.rint(mantissa * 2048) / 2048, exponent).astype(np.float32)
    return rounded


def _rms(x: Array, axis: int | None = None) -> Any:
    return np.sqrt((x * x).mean(axis=axis))
