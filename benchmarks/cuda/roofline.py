"""The least that a step of a graph must move and compute, and how fast a device does that."""

from typing import NamedTuple

import numpy as np
import onnx
import torch

from benchmarks.speed.graphs import seconds_of
from bundle.manifest import ModelShape

__all__ = ["Rates", "Work", "rates", "work_of"]

# Sizes of what is measured: bytes of a copy, and rows of a square matrix.
COPIED = {"cuda": 1 << 30, "cpu": 1 << 26}
MATRIX = {"cuda": 8192, "cpu": 512}
AT_ONCE = 10  # calls between two waits for the device
# A step reads and writes each float32 of a row's states.
TRIPS, FLOAT = 2, 4


class Rates(NamedTuple):
    """Bytes read and written a second by a copy; operations (two to a product) a second of a large matmul."""

    copy: float
    matmul: float


class Work(NamedTuple):
    """The work of one step: bytes of the matmuls' weights, bytes of a row, and operations for a row."""

    weights: int
    row: int
    operations: int

    def seconds(self, rows: int, rates: Rates) -> float:
        """Return the least time of a step: that of moving or that of computing, whichever is longer."""
        moved = self.weights + rows * self.row
        return max(moved / rates.copy, rows * self.operations / rates.matmul)


def rates(device: str, kind: torch.dtype, seconds: float) -> Rates:
    """Measure with torch. `kind` is the type of the matmul's factors."""
    numbers = torch.zeros(COPIED[device] // FLOAT, device=device)
    copy = torch.empty_like(numbers)
    size = MATRIX[device]
    factor = torch.ones(size, size, device=device, dtype=kind)
    product = torch.empty_like(factor)

    def time_calls(call: object, *arguments: torch.Tensor) -> float:
        def run() -> None:
            for _ in range(AT_ONCE):
                call(*arguments)  # type: ignore[operator]
            if device == "cuda":
                torch.cuda.synchronize()

        return seconds_of(run, seconds) / AT_ONCE

    copying = time_calls(copy.copy_, numbers)
    multiplying = time_calls(lambda: torch.mm(factor, factor, out=product))
    return Rates(2 * COPIED[device] / copying, 2 * size**3 / multiplying)


def work_of(graph: bytes, steps: int, shape: ModelShape) -> Work:
    """Return the work of a step of a decode graph that is unrolled `steps` times."""
    model = onnx.load_from_string(graph)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    used = [
        weights[node.input[1]] for node in model.graph.node if node.op_type == "MatMul" and node.input[1] in weights
    ]
    products = sum(int(np.prod(tensor.dims)) for tensor in used)
    held = {tensor.name: _bytes(tensor) for tensor in used}
    return Work(
        weights=sum(held.values()),
        row=TRIPS * FLOAT * shape.hidden * len(shape.state_names),
        operations=2 * products // steps,
    )


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(np.prod(tensor.dims)) * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
