"""onnxruntime for verification: one thread, arrays by name."""

from collections.abc import Mapping
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from bundle import onnx_header_pb2 as header
from bundle.pair_bound import is_bounded

__all__ = ["Arrays", "OnnxSession", "OnnxSessionError"]

Arrays = dict[str, NDArray[Any]]


class OnnxSessionError(ValueError):
    """onnxruntime failed while it ran a graph, or made what nothing can go on from. The message is one line."""


class OnnxSession:
    """One ONNX file, optimised as in the server."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        if not is_bounded(header.Model.FromString(data)):
            # Without VNNI, products of 8 bits would saturate; this option selects slower, exact instructions.
            options.add_session_config_entry("session.x64quantprecision", "1")
        self._session = onnxruntime.InferenceSession(
            data, options, providers=["CPUExecutionProvider"], disabled_optimizers=["ConstantFolding"]
        )
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> Arrays:
        """Return the outputs by name. Raises OnnxSessionError."""
        try:
            outputs = self._session.run(None, dict(inputs))
        except Exception as error:  # its dozen error classes have no other base
            raise OnnxSessionError("onnxruntime: " + " ".join(str(error).split())) from error
        return dict(zip(self._outputs, outputs, strict=True))
