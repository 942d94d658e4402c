"""Runs a bundle's graphs in the host's memory. Only this file and server/runtime/device_runner.py know onnxruntime."""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bundle import onnx_header_pb2 as onnx
from bundle.graph_contract import TensorSpec, decode_inputs, decode_outputs, full_inputs, full_outputs
from bundle.manifest import ModelShape
from bundle.pair_bound import WORST_ROWS, exact_product, is_bounded, matmul_graph, worst_inputs, worst_weights

__all__ = [
    "NAMES",
    "CannotRun",
    "Graph",
    "Provider",
    "Runner",
    "RuntimeMissing",
    "check_runtime",
    "has_cuda",
    "may_have_cuda",
    "one_line_errors",
    "runtime_version",
    "session_options",
    "sums_are_exact",
]

log = logging.getLogger("charstream.models")

Provider = Literal["cpu", "cuda"]
Array = NDArray[np.generic]
Arrays = Sequence[Array]
# The names that onnxruntime has for providers.
NAMES: dict[Provider, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class RuntimeMissing(RuntimeError):
    """onnxruntime is not installed, installed twice, or lacks the provider that was asked for."""


class CannotRun(RuntimeError):
    """onnxruntime refuses a graph, or fails while it runs it; one line."""


def check_runtime() -> None:
    """Raise RuntimeMissing if onnxruntime is not there, or onnxruntime-gpu in the same folder, too."""
    found = [folder for name in ("onnxruntime", "onnxruntime-gpu") if (folder := _folder_of(name))]
    if not found:
        raise RuntimeMissing("onnxruntime is not installed: pip install 'charstream[cpu]' or 'charstream[gpu]'")
    if len(found) > len(set(found)):
        raise RuntimeMissing(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of 'charstream[cpu]' and 'charstream[gpu]'"
        )


def has_cuda() -> bool:
    """Return whether this onnxruntime was built with CUDA; whether CUDA loads is only seen when a graph asks for it."""
    import onnxruntime

    return NAMES["cuda"] in onnxruntime.get_available_providers()


def may_have_cuda() -> bool:
    """Return whether the package with CUDA is installed, without importing it."""
    return _folder_of("onnxruntime-gpu") is not None


def runtime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


class Graph:
    """One graph in onnxruntime. Its inputs and outputs are arrays, bound by address."""

    def __init__(
        self, data: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], *, threads: int
    ) -> None:
        self._session = _session(data, threads)
        self._binding = self._session.io_binding()
        self._inputs = [spec.name for spec in inputs]
        self._outputs = [spec.name for spec in outputs]

    def run(self, inputs: Iterable[Array], outputs: Iterable[Array]) -> None:
        """Read the inputs and write the outputs, all contiguous, in the order of the contract. Raises CannotRun."""
        for name, array in zip(self._inputs, inputs, strict=True):
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in zip(self._outputs, outputs, strict=True):
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        with one_line_errors():
            self._session.run_with_iobinding(self._binding)


class Runner:
    """The graphs of one model in one precision; see bundle.graph_contract for the types and shapes of what they take.

    Args:
        decode, full: the bytes of the files.
        vocab: size of the vocabulary, V.
        threads: of one operator.

    Attributes:
        provider: as onnxruntime names it.

    Raises:
        CannotRun: if onnxruntime refuses a graph.
    """

    provider = NAMES["cpu"]

    def __init__(self, decode: bytes, full: bytes, shape: ModelShape, vocab: int, *, threads: int) -> None:
        self._decode = Graph(decode, decode_inputs(shape), decode_outputs(shape), threads=threads)
        self._full = Graph(full, full_inputs(shape, vocab), full_outputs(shape, vocab), threads=threads)

    def decode(self, before: Arrays, loop: Arrays, tokens: Array, after: Arrays) -> None:
        """Run K steps for B rows: read token and state from `before`, write `tokens` [K, B] and `after`.

        Args:
            loop: forced, uniform and temperature.
        """
        token, *state = before
        self._decode.run((token, *loop, *state), (tokens, *after))

    def full(self, before: Arrays, loop: Arrays, limits: Arrays, tokens: Array, logprobs: Array, after: Arrays) -> None:
        """Do as `decode`, with limits (bias, top_k, top_p, min_p); write `logprobs` [K, B, V] too."""
        token, *state = before
        token_next, *state_next = after
        self._full.run((token, *loop, *limits, *state), (tokens, token_next, logprobs, *state_next))


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Make any error of onnxruntime a CannotRun: it raises a dozen classes whose only common base is Exception."""
    try:
        yield
    except Exception as error:
        raise CannotRun("onnxruntime: " + " ".join(str(error).split())) from error


def _folder_of(name: str) -> Path | None:
    """Return where a package is installed, if it is."""
    try:
        return Path(str(metadata.distribution(name).locate_file("")))
    except metadata.PackageNotFoundError:
        return None


def session_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Patterns are kept per shape for ever, and every B and K is a shape of its own.
    options.enable_mem_pattern = False
    # It sets the mode of the thread that loads, and of those that it starts: the engine's thread must be one of them.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _session(graph: bytes, threads: int) -> Any:
    options = session_options(threads)
    if not sums_are_exact(is_bounded=is_bounded(onnx.Model.FromString(graph))):
        # Without VNNI sums of 8 bits may saturate; this takes instructions that are slower and exact.
        options.add_session_config_entry("session.x64quantprecision", "1")
    return _open(graph, options)


def _open(graph: bytes, options: Any) -> Any:
    import onnxruntime

    # Constants are folded at export. Here it would hide what becomes one operator: see export/graph/int8.py.
    kept = {"disabled_optimizers": ["ConstantFolding"]}
    with one_line_errors():
        return onnxruntime.InferenceSession(graph, options, providers=[NAMES["cpu"]], **kept)


@cache
def sums_are_exact(*, is_bounded: bool) -> bool:
    """Return whether the fast sums of 8 bits are exact on this machine: a part of the probe.

    Args:
        is_bounded: for weights that keep the pair bound, which may saturate nowhere; else for all weights.
    """
    weights = worst_weights() if is_bounded else np.full_like(worst_weights(), 127)
    session = _open(matmul_graph(weights), session_options(1))
    inputs = [worst_inputs(weights, rows) for rows in WORST_ROWS]
    is_exact = all(np.array_equal(session.run(None, {"x": x})[0], exact_product(x, weights)) for x in inputs)
    if is_bounded and not is_exact:
        log.warning("sums of 8 bits are not exact with this processor's fast instructions: slower ones are taken")
    return is_exact
