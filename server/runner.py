"""Runs a decode graph: the only file that knows onnxruntime."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bundle.graphs import decode_inputs, decode_outputs
from bundle.manifest import ModelShape

__all__ = ["CannotRun", "Provider", "Runner", "RuntimeMissing", "check_runtime"]

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


class Runner:
    """A decode graph in onnxruntime.

    Args:
        graph: the bytes of decode.*.onnx.
        threads: of one operator.
        provider: "auto" takes CUDA where it loads.

    Raises:
        RuntimeMissing: if the provider cannot be had.
        CannotRun: if onnxruntime refuses the graph.
    """

    def __init__(self, graph: bytes, shape: ModelShape, *, threads: int, provider: Provider) -> None:
        self._session = _session(graph, threads, provider)
        self._binding = self._session.io_binding()
        self._inputs = [spec.name for spec in decode_inputs(shape)]
        self._outputs = [spec.name for spec in decode_outputs(shape)]

    @property
    def provider(self) -> str:
        """As onnxruntime names it."""
        return str(self._session.get_providers()[0])

    def run(
        self,
        before: Sequence[Array],
        forced: Array,
        uniform: Array,
        steps: Array,
        temperature: Array,
        tokens: Array,
        after: Sequence[Array],
    ) -> None:
        """Runs K steps for B rows: reads token and state from `before`, writes `tokens` [K, B] and `after`.

        All arrays are contiguous; see bundle.graphs.decode_inputs for their types and shapes. Raises CannotRun.
        """
        token, *state = before
        inputs = (token, forced, uniform, steps, temperature, *state)
        for name, array in zip(self._inputs, inputs, strict=True):
            self._binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        for name, array in zip(self._outputs, (tokens, *after), strict=True):
            self._binding.bind_output(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        with _one_line_errors():
            self._session.run_with_iobinding(self._binding)


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
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    wanted = [_NAMES["cuda"], _NAMES["cpu"]] if provider == "auto" else [_NAMES[provider]]
    names = [name for name in wanted if name in onnxruntime.get_available_providers()]
    with _one_line_errors():
        session = onnxruntime.InferenceSession(graph, options, providers=names) if names else None
    # onnxruntime falls back to the CPU in silence when CUDA does not load.
    if session is None or (provider != "auto" and session.get_providers()[0] != _NAMES[provider]):
        raise RuntimeMissing(f"provider {provider}: onnxruntime could not load {_NAMES[provider]}")
    return session
