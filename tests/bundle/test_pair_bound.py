"""Weights that keep the pair bound give exact sums on every processor; a file that promises the bound is held to it."""

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from bundle import onnx_header_pb2 as onnx
from bundle.pair_bound import (
    Exceeded,
    check_pairs,
    check_tensors,
    exact_product,
    is_bounded,
    matmul_graph,
    worst_inputs,
    worst_weights,
)

ROWS = (*range(1, 34), 63, 64, 65, 128, 130)


def largest_weights(inputs: int, columns: int) -> NDArray[np.int8]:
    """Return weights whose pairs are all at the bound, of both signs, split in every way."""
    rng = np.random.default_rng(inputs)
    first = rng.integers(1, 128, (inputs // 2, columns))
    signs = rng.choice([-1, 1], (inputs // 2, columns))
    pairs = np.stack([first, 128 - first], 1) * signs[:, None]
    return np.pad(pairs.reshape(-1, columns), ((0, inputs % 2), (0, 0)), constant_values=127).astype(np.int8)


def session_of(weights: NDArray[np.int8], *, packed: bool) -> onnxruntime.InferenceSession:
    """Return onnxruntime with its fast instructions; without packing the weights are an input."""
    model = onnx.Model.FromString(matmul_graph(weights))
    if not packed:
        (tensor,) = (t for t in model.graph.initializer if t.name == "w")
        shape = onnx.Shape(dim=[onnx.Dimension(dim_value=size) for size in tensor.dims])
        kind = onnx.Type(tensor_type=onnx.TensorType(elem_type=tensor.data_type, shape=shape))
        model.graph.initializer.remove(tensor)
        model.graph.input.append(onnx.Value(name="w", type=kind))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("shape", [(64, 16), (513, 96), (1024, 33)])
def test_sums_at_the_bound_are_exact_in_every_batch(shape: tuple[int, int], packed: bool) -> None:
    """On AVX2 without the bound every one of these is wrong (docs/decisions.md); with VNNI nothing ever is."""
    for weights in (largest_weights(*shape), worst_weights()):
        check_pairs("w", weights)
        session = session_of(weights, packed=packed)
        for rows in ROWS:
            worst = worst_inputs(weights, rows)
            for x in (worst, np.full_like(worst, 255)):
                (y,) = session.run(None, {"x": x} | ({} if packed else {"w": weights}))
                np.testing.assert_array_equal(y, exact_product(x, weights))


@pytest.mark.parametrize(
    ("pair", "sums"),
    [((127, 2), True), ((-127, -2), True), ((-128, -128), True), ((127, -128), False), ((64, 64), False)],
)
def test_pairs_of_one_sign_are_bounded(pair: tuple[int, int], sums: bool) -> None:
    weights = np.zeros((6, 5), np.int8)
    weights[2:4, 3] = pair
    weights[3:5, 1] = 127  # neighbours, but no pair
    if not sums:
        check_pairs("w", weights)
        return
    with pytest.raises(Exceeded, match=rf"'w': weights 2 and 3 of column 3 are {pair[0]} and {pair[1]}"):
        check_pairs("w", weights)


def test_a_file_that_promises_the_bound_is_held_to_it() -> None:
    model = onnx.Model.FromString(matmul_graph(worst_weights()))
    assert is_bounded(model)
    check_tensors(model.graph)
    weights = np.full((4, 2), 100, np.int8)
    model.graph.initializer[0].raw_data = weights.tobytes()
    with pytest.raises(Exceeded, match="8 bytes"):
        check_tensors(model.graph)
    model.graph.initializer[0].dims[:] = weights.shape
    with pytest.raises(Exceeded, match="beyond the bound 128"):
        check_tensors(model.graph)
