"""Runs a bundle's graphs for a device: on CUDA as captured graphs, or on the CPU, where memory is plain.

Only this file, server/runtime/cuda.py and server/runtime/host_runner.py know onnxruntime. What CUDA captures has fixed
shapes and addresses, so arrays are made once, and graphs are bound to them once.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.runtime.cuda import missing_library, share_device
from server.runtime.host_runner import (
    NAMES,
    CannotRun,
    Provider,
    RuntimeMissing,
    has_cuda,
    one_line_errors,
    runtime_version,
    session_options,
)

__all__ = ["Bound", "Buffer", "DeviceRunner", "check_placement", "require_cuda"]

Array = NDArray[np.generic]
DEVICE_ID = 0
# Before it a captured graph may read a table on the host that is gone when it is replayed (docs/decisions.md).
LEAST_VERSION = 1, 31
# The graph id of a run that is not captured.
PLAIN = -1


class Buffer:
    """An array on the device with a fixed address; at first it is zeros."""

    def __init__(self, value: Any, shape: tuple[int, ...], dtype: type[np.generic], provider: Provider) -> None:
        self.value, self._shape, self._dtype, self._provider = value, shape, dtype, provider
        self.write(np.zeros(shape, dtype))

    def write(self, array: Array) -> None:
        """Copy the array into the buffer. Raises CannotRun."""
        # onnxruntime compares no types, and only the number of elements.
        if array.shape != self._shape or array.dtype != self._dtype:
            raise ValueError(f"an array {array.dtype} {array.shape}, expected {self._dtype.__name__} {self._shape}")
        with _device_calls(self._provider):
            self.value.update_inplace(array)

    def read(self) -> NDArray[Any]:
        """Return a copy of the buffer. Raises CannotRun."""
        with _device_calls(self._provider):
            array: NDArray[Any] = self.value.numpy()
            # On the CPU that is the memory itself.
            return array.copy() if self._provider == "cpu" else array


class Bound:
    """A graph bound to its buffers; on CUDA `number` names its capture."""

    def __init__(self, session: Any, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], number: int) -> None:
        self._session, self._binding, self._number = session, session.io_binding(), number
        self._provider: Provider = "cpu" if number == PLAIN else "cuda"
        for name, buffer in inputs.items():
            self._binding.bind_ortvalue_input(name, buffer.value)
        for name, buffer in outputs.items():
            self._binding.bind_ortvalue_output(name, buffer.value)
        self._plain, self._captured = _run_options(PLAIN), _run_options(number)

    def run(self, *, captured: bool) -> None:
        """Run the graph; return when it is done. Raises CannotRun.

        Args:
            captured: the first such run of a thread captures, which takes several runs; later ones replay.
        """
        with _device_calls(self._provider):
            self._session.run_with_iobinding(self._binding, self._captured if captured else self._plain)

    def give_up_capture(self) -> None:
        """Free what this thread has captured; its next captured run captures anew. Raises CannotRun."""
        if self._provider == "cuda":
            with _device_calls(self._provider):
                self._session.release_captured_graph(self._number)


class DeviceRunner:
    """The graphs of one model in one precision.

    Args:
        graphs: the bytes of the files by (full, steps).
        threads: of one operator, on the CPU.
        tf32: float32 matmuls may round what they multiply to 10 bits.

    Attributes:
        provider: as onnxruntime names it.

    Raises:
        RuntimeMissing: if the provider cannot be had.
        CannotRun: if onnxruntime refuses a graph, or would run a part of it on the CPU instead of CUDA.
    """

    def __init__(
        self, graphs: Mapping[tuple[bool, int], bytes], *, threads: int, provider: Provider, tf32: bool
    ) -> None:
        self.provider, self.device = NAMES[provider], f"cuda:{DEVICE_ID}" if provider == "cuda" else "the CPU"
        self._provider, self._numbers = provider, count(1)
        self._sessions = {key: _session(data, threads, provider, tf32) for key, data in graphs.items()}

    def buffer(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Buffer:
        """Return a new buffer. Raises CannotRun."""
        import onnxruntime

        with _device_calls(self._provider):
            value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._provider, DEVICE_ID)
        return Buffer(value, shape, dtype, self._provider)

    def bind(self, full: bool, steps: int, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Bound:
        number = next(self._numbers) if self._provider == "cuda" else PLAIN
        return Bound(self._sessions[full, steps], inputs, outputs, number)


def require_cuda() -> None:
    """Raise RuntimeMissing, which names what is missing, unless CUDA's libraries can be loaded."""
    if not has_cuda():
        raise RuntimeMissing("provider cuda: this onnxruntime has no CUDA: pip install 'charstream[gpu]' instead")
    found = tuple(int(part) for part in runtime_version().split(".")[:2])
    if found < LEAST_VERSION:
        raise RuntimeMissing(
            f"provider cuda: onnxruntime-gpu {runtime_version()}, expected at least "
            f"{'.'.join(map(str, LEAST_VERSION))}: pip install --upgrade 'charstream[gpu]'"
        )
    if missing := missing_library():
        raise RuntimeMissing(
            f"provider cuda: {missing}: pip install 'charstream[gpu]' brings CUDA and cuDNN, the driver is the system's"
        )


def check_placement(session: Any, provider: Provider) -> None:
    """Raise CannotRun, which names an operator that runs elsewhere: it would need copies, and cannot be captured."""
    for part in session.get_provider_graph_assignment_info():
        if part.ep_name != (wanted := NAMES[provider]):
            node = part.get_nodes()[0]
            raise CannotRun(f"onnxruntime runs {node.op_type} {node.name!r} on {part.ep_name}, not on {wanted}")


@contextmanager
def _device_calls(provider: Provider) -> Iterator[None]:
    """Call onnxruntime on a device that other threads may use, too. Raises CannotRun."""
    if provider == "cuda":
        share_device()
    with one_line_errors():
        yield


def _run_options(number: int) -> Any:
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(number))
    return options


def _session(graph: bytes, threads: int, provider: Provider, tf32: bool) -> Any:
    options = session_options(threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    # The device is the first one: the option for another makes onnxruntime warn of plugins once a session.
    cuda = {"use_tf32": int(tf32), "enable_cuda_graph": 1}
    try:
        session = _load_session(graph, options, provider, cuda)
    except CannotRun:
        if provider == "cuda":
            # A session that cannot capture does not say why: this one is loaded for the names of its operators.
            check_placement(_load_session(graph, options, provider, cuda | {"enable_cuda_graph": 0}), provider)
        raise
    check_placement(session, provider)
    return session


def _load_session(graph: bytes, options: Any, provider: Provider, cuda: Mapping[str, int]) -> Any:
    import onnxruntime

    if provider == "cuda":
        require_cuda()
    providers = [(NAMES["cuda"], cuda), NAMES["cpu"]] if provider == "cuda" else [NAMES["cpu"]]
    with _device_calls(provider):
        # Else it prints what went wrong and takes the CPU.
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    # It takes the CPU in silence where the driver finds no device.
    if session.get_providers()[0] != NAMES[provider]:
        raise RuntimeMissing(f"provider {provider}: onnxruntime {runtime_version()} could not load {NAMES[provider]}")
    return session
