"""Runs the graphs of a bundle: the only file that knows onnxruntime."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bundle.graphs import TensorSpec, decode_inputs, decode_outputs, full_inputs, full_outputs
from bundle.manifest import ModelShape

__all__ = ["CannotRun", "Graph", "Provider", "Runner", "RuntimeMissing", "check_runtime"]

Provider = Literal["auto", "cpu", "cuda"]
Array = NDArray[np.generic]
_NAMES = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class RuntimeMissing(RuntimeError):
    """onnxruntime is not installed, installed twice, or lacks the provider that was asked for."""


class CannotRun(RuntimeError):
    """onnxruntime refuses a graph, or fails while it runs it; one line."""


def check_runtime() -> None:
    """Raises RuntimeMissing unless exactly one of onnxruntime and onnxruntime-gpu is installed."""
    found = [name for name in ("onnxruntime", "onnxruntime-gpu") if _is_installed(name)]
    if not found:
        raise RuntimeMissing("onnxruntime is not installed: pip install 'charstream[cpu]' or 'charstream[gpu]'")
    if len(found) == 2:
        raise RuntimeMissing(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of 'charstream[cpu]' and 'charstream[gpu]'"
        )


class Graph:
    """One graph in onnxruntime. Its inputs and outputs are arrays, bound by address."""

    def __init__(
        self,
        data: bytes,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        threads: int,
        provider: Provider,
    ) -> None:
        self._session = _session(data, threads, provider)
        self._binding = self._session.io_binding()
        self._inputs = [spec.name for spec in inputs]
        self._outputs = [spec.name for spec in outputs]

    @property
    def provider(self) -> str:
        """As onnxruntime names it."""
        return str(self._session.get_providers()[0])

    def run(self, inputs: Iterable[Array], outputs: Iterable[Array]) -> None:
        """Reads the inputs and writes the outputs, all contiguous, in the order of the contract. Raises CannotRun."""
        for name, array in zip(self._inputs, inputs, strict=True):
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in zip(self._outputs, outputs, strict=True):
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        with _one_line_errors():
            self._session.run_with_iobinding(self._binding)


class Runner:
    """The graphs of one model in one precision; see bundle.graphs for the types and shapes of what they take.

    Args:
        decode, full: the bytes of the files.
        vocab: characters known, V.
        threads: of one operator.
        provider: "auto" takes CUDA where it loads.

    Raises:
        RuntimeMissing: if the provider cannot be had.
        CannotRun: if onnxruntime refuses a graph.
    """

    def __init__(
        self, decode: bytes, full: bytes, shape: ModelShape, vocab: int, *, threads: int, provider: Provider
    ) -> None:
        self._decode = Graph(decode, decode_inputs(shape), decode_outputs(shape), threads=threads, provider=provider)
        outputs = full_outputs(shape, vocab)
        self._full = Graph(full, full_inputs(shape, vocab), outputs, threads=threads, provider=provider)
        self.provider = self._decode.provider

    def decode(self, before: Sequence[Array], loop: Sequence[Array], tokens: Array, after: Sequence[Array]) -> None:
        """Runs K steps for B rows: reads token and state from `before`, writes `tokens` [K, B] and `after`.

        Args:
            loop: forced, uniform and temperature.
        """
        token, *state = before
        self._decode.run((token, *loop, *state), (tokens, *after))

    def full(
        self,
        before: Sequence[Array],
        loop: Sequence[Array],
        limits: Sequence[Array],
        tokens: Array,
        logprobs: Array,
        after: Sequence[Array],
    ) -> None:
        """As `decode`, with limits (bias, top_k, top_p, min_p); writes `logprobs` [K, B, V] too."""
        token, *state = before
        token_next, *state_next = after
        self._full.run((token, *loop, *limits, *state), (tokens, token_next, logprobs, *state_next))


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """onnxruntime raises a dozen classes whose only common base is Exception."""
    try:
        yield
    except Exception as error:
        raise CannotRun("onnxruntime: " + " ".join(str(error).split())) from error


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _session(graph: bytes, threads: int, provider: Provider) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Patterns are kept per shape for ever, and every B and K is a shape of its own.
    options.enable_mem_pattern = False
    # It sets the mode of the thread that loads, and of those that it starts: the engine's thread must be one of them.
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Without VNNI the products of 8 bits would saturate; this takes instructions that are slower and exact.
    options.add_session_config_entry("session.x64quantprecision", "1")
    wanted = [_NAMES["cuda"], _NAMES["cpu"]] if provider == "auto" else [_NAMES[provider]]
    names = [name for name in wanted if name in onnxruntime.get_available_providers()]
    with _one_line_errors():
        # Constants are folded at export. Here it would hide what becomes one operator: see export/int8.py.
        kept = {"disabled_optimizers": ["ConstantFolding"]}
        session = onnxruntime.InferenceSession(graph, options, providers=names, **kept) if names else None
    # onnxruntime falls back to the CPU in silence when CUDA does not load.
    if session is None or (provider != "auto" and session.get_providers()[0] != _NAMES[provider]):
        raise RuntimeMissing(f"provider {provider}: onnxruntime could not load {_NAMES[provider]}")
    return session
