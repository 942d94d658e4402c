"""The bound that keeps sums of 8 bits exact on every x86 processor, and how a file says that its weights keep it.

Without VNNI, onnxruntime multiplies uint8 by int8 with vpmaddubsw, which adds the products of inputs 2j and 2j + 1 in
16 bits, and saturates. If of each such pair of weights in a column the positive ones sum to at most 128, and the
negative ones to at least -128, no sum is beyond 255 x 128 = 32,640: nothing saturates, and the integers are the same
everywhere.

A file without the entry is from before there was a bound. Its sums are exact with slower instructions.
"""

import math

import numpy as np
from numpy.typing import NDArray

from bundle import onnx_header_pb2 as onnx

__all__ = [
    "METADATA",
    "PAIR_BOUND",
    "WORST_ROWS",
    "Exceeded",
    "check_pairs",
    "check_tensors",
    "exact_product",
    "is_bounded",
    "matmul_graph",
    "worst_inputs",
    "worst_weights",
]

PAIR_BOUND = 128
METADATA = {"charstream.int8_pair_bound": str(PAIR_BOUND)}
UINT8, INT8, INT32 = 2, 3, 6  # ONNX's codes of element types
ZERO = 128
# Each repeated down a column: were others than neighbours added in 16 bits, one of them would saturate.
WORST = ((127, 1, 1, 127), (1, 127, 127, 1), (127, 1, 127, 1), (64, 64, 64, 64), (127, 0, 1, 127), (32, 96, 96, 32))
WORST_INPUTS, WORST_ROWS = 131, (1, 7, 64)
Weights = NDArray[np.int8]


class Exceeded(ValueError):
    """Weights do not keep the bound that their file promises; one line."""


def is_bounded(model: onnx.Model) -> bool:
    """Return whether the file says that its weights keep the bound."""
    return METADATA.items() <= {entry.key: entry.value for entry in model.metadata_props}.items()


def check_tensors(graph: onnx.Graph) -> None:
    """Raise Exceeded unless all weights of 8 bits in a graph keep the bound."""
    for tensor in graph.initializer:
        if tensor.data_type == INT8:
            if len(tensor.dims) != 2 or len(tensor.raw_data) != math.prod(tensor.dims):
                raise Exceeded(f"tensor {tensor.name!r}: {len(tensor.raw_data)} bytes for weights {list(tensor.dims)}")
            check_pairs(tensor.name, np.frombuffer(tensor.raw_data, np.int8).reshape(tensor.dims))


def check_pairs(name: str, weights: Weights) -> None:
    """Raise Exceeded unless weights [K, N] keep the bound."""
    pairs = np.pad(weights, ((0, len(weights) % 2), (0, 0))).reshape(-1, 2, weights.shape[1])
    # Two halves of -128 would not fit in 8 bits.
    for part in (np.maximum(pairs, 0), -np.minimum(pairs, 0).astype(np.int16)):
        sums = part.sum(1, dtype=np.int16)
        if sums.size and sums.max() > PAIR_BOUND:
            pair, column = np.unravel_index(sums.argmax(), sums.shape)
            first, second = pairs[pair, :, column]
            raise Exceeded(
                f"tensor {name!r}: weights {2 * pair} and {2 * pair + 1} of column {column} are {first} and {second}, "
                f"beyond the bound {PAIR_BOUND} that the file promises"
            )


def worst_inputs(weights: Weights, rows: int) -> NDArray[np.uint8]:
    """Return inputs [rows, K] that come closest to saturation: all 255, then what is worst for one column each."""
    signs = np.sign(weights.T[np.arange(rows) // 2 % weights.shape[1]])
    signs[1::2] *= -1
    signs[0] = 1
    return np.where(signs > 0, 255, 1).astype(np.uint8)


def exact_product(x: NDArray[np.uint8], weights: Weights) -> NDArray[np.int64]:
    """Return what MatMulInteger makes of inputs [B, K] and weights [K, N], by float64, where such sums are exact."""
    return ((x.astype(np.float64) - ZERO) @ weights.astype(np.float64)).astype(np.int64)


def worst_weights() -> Weights:
    """Return weights at the bound, [131, 48], which saturate where others than neighbours are added in 16 bits."""
    columns = np.array([np.resize(pattern, WORST_INPUTS) for pattern in WORST], np.int8).T
    return np.tile(np.concatenate([columns, -columns], 1), 4)


def matmul_graph(weights: Weights) -> bytes:
    """Return an ONNX file that multiplies x uint8 [B, K] by weights that keep the bound -> y int32 [B, N]."""
    tensors = {"w": (weights, INT8), "zero": (np.array(ZERO, np.uint8), UINT8)}
    return onnx.Model(
        ir_version=10,
        opset_import=[onnx.Opset(version=20)],
        metadata_props=[onnx.Entry(key=key, value=value) for key, value in METADATA.items()],
        graph=onnx.Graph(
            name="matmul",
            node=[onnx.Node(op_type="MatMulInteger", input=["x", "w", "zero"], output=["y"])],
            initializer=[
                onnx.Tensor(name=name, dims=array.shape, data_type=kind, raw_data=array.tobytes())
                for name, (array, kind) in tensors.items()
            ],
            input=[_matrix("x", UINT8, weights.shape[0])],
            output=[_matrix("y", INT32, weights.shape[1])],
        ),
    ).SerializeToString()


def _matrix(name: str, kind: int, columns: int) -> onnx.Value:
    shape = onnx.Shape(dim=[onnx.Dimension(dim_param="B"), onnx.Dimension(dim_value=columns)])
    return onnx.Value(name=name, type=onnx.Type(tensor_type=onnx.TensorType(elem_type=kind, shape=shape)))
