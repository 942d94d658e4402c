"""onnxruntime as the verification uses it: one thread, arrays by name."""

from collections.abc import Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

__all__ = ["Arrays", "Runtime", "RuntimeFailure"]

Arrays = dict[str, NDArray[Any]]


class RuntimeFailure(ValueError):
    """onnxruntime fails while it runs a graph; one line."""


class Runtime:
    """One ONNX file, with the optimisations that the server runs it with."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        # Without VNNI the products of 8 bits would saturate; this takes instructions that are slower and exact.
        options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Outputs by name. Raises RuntimeFailure."""
        try:
            outputs = self._session.run(None, dict(inputs))
        except Exception as error:  # its dozen classes have no other base
            raise RuntimeFailure("onnxruntime: " + " ".join(str(error).split())) from error
        return dict(zip(self._outputs, outputs, strict=True))
