"""8 bits: the operator is exact, in torch and in onnxruntime, and does not depend on the batch."""

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from bundle.graph_contract import FLOAT, TensorSpec
from bundle.pair_bound import check_pairs
from export.build import unsupported_reason
from export.graph.int8 import EXACT_FLOAT32_INPUTS, Int8Dense, quantize
from export.graph.rounding import round_weights
from export.onnx_file import to_onnx
from export.verification.onnx_session import OnnxSession
from tests.conftest import tiny_model


class Quantized(nn.Module):
    """float32 in, as from a recurrent layer, float32 out."""

    def __init__(self, dense: Int8Dense) -> None:
        super().__init__()
        self.dense = dense

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(quantize(x))


def layer(inputs: int, outputs: int) -> Int8Dense:
    torch.manual_seed(inputs)
    weight = torch.randn(inputs, outputs) * torch.logspace(-3, 1, outputs)
    weight[:, 3] = 0
    return Int8Dense(round_weights(weight, even_moments(inputs)), torch.randn(outputs))


def even_moments(inputs: int) -> Tensor:
    """Of inputs that are independent and equally large: each weight is rounded to nearest."""
    return torch.eye(inputs, dtype=torch.float64)


def exported(module: Quantized, inputs: int, outputs: int) -> bytes:
    x, y = TensorSpec("x", FLOAT, ("B", inputs)), TensorSpec("y", FLOAT, ("B", outputs))
    return to_onnx(module, (torch.zeros(3, inputs),), (x,), (y,), {})


@pytest.mark.parametrize("inputs", [64, 513, EXACT_FLOAT32_INPUTS + 10])
def test_torch_and_the_runtime_have_the_same_bits_in_every_batch(inputs: int) -> None:
    module = Quantized(layer(inputs, 40))
    runtime = OnnxSession(exported(module, inputs, 40))
    x = torch.rand(64, inputs, generator=torch.Generator().manual_seed(1)) * 2 - 1
    x[0], x[1], x[2] = 1, -1, 0
    with torch.no_grad():
        expected = module(x).numpy()
    np.testing.assert_array_equal(runtime.run({"x": x.numpy()})["y"], expected)
    for row in (0, 1, 2, 63):
        np.testing.assert_array_equal(runtime.run({"x": x[row : row + 1].numpy()})["y"][0], expected[row])


@pytest.mark.parametrize("inputs", [64, EXACT_FLOAT32_INPUTS + 10])
def test_weights_that_are_unpacked_give_the_same_bits(inputs: int) -> None:
    dense = layer(inputs, 40)
    x = quantize(torch.rand(5, inputs, generator=torch.Generator().manual_seed(2)) * 2 - 1)
    with torch.no_grad():
        expected = dense(x)
        dense.unpack()
        assert torch.equal(dense(x), expected)


def test_sums_at_their_largest_are_exact() -> None:
    """All inputs 1 and all weights of one sign: what saturates in 16 bits, or is no integer in float32, shows here."""
    inputs = 4096
    weight = torch.cat([torch.ones(inputs, 8), -torch.ones(inputs, 8)], 1)
    module = Quantized(Int8Dense(round_weights(weight, even_moments(inputs)), None))
    runtime = OnnxSession(exported(module, inputs, 16))
    x = np.ones((2, inputs), np.float32)
    y = runtime.run({"x": x})["y"]
    np.testing.assert_allclose(np.abs(y), inputs, rtol=1e-6)
    with torch.no_grad():
        np.testing.assert_array_equal(module(torch.from_numpy(x)).numpy(), y)


def test_inputs_are_rounded_to_127_levels_halves_to_even() -> None:
    x = torch.tensor([0.0, 1.0, -1.0, 0.5 / 127, 1.5 / 127, -0.5 / 127, 2.0, -2.0])
    assert quantize(x).tolist() == [128, 255, 1, 128, 130, 128, 255, 0]


def test_a_weight_is_off_by_at_most_half_a_level_of_its_column() -> None:
    weight = torch.randn(100, 7, generator=torch.Generator().manual_seed(2)) * torch.logspace(-4, 2, 7)
    rounded = round_weights(weight, even_moments(100))
    back = rounded.integers.float() * rounded.scale
    # Where rounding would lift a pair above its bound, one of the two is rounded the other way.
    assert ((back - weight).abs() <= 1.0001 * rounded.scale).all()
    assert ((back - weight).abs() <= 0.5001 * rounded.scale).float().mean() > 0.99


def test_rounding_for_the_inputs_that_occur_loses_less_than_rounding_to_nearest() -> None:
    """Inputs as of a recurrent layer, which move together."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.tanh(torch.randn(4096, 8, generator=generator) @ torch.randn(8, 101, generator=generator))
    weight = torch.randn(101, 30, generator=generator)
    x = inputs.double()

    def loss(moments: Tensor) -> float:
        rounded = round_weights(weight, moments)
        check_pairs("w", rounded.integers.numpy())
        return float((x @ (rounded.integers * rounded.scale.double() - weight)).square().mean())

    assert loss(x.T @ x / len(x)) < 0.3 * loss(even_moments(101))


def test_the_scales_are_left_for_the_runtime_to_fuse() -> None:
    """Folded into one constant they would hide the pattern that runs as one operator."""
    model = onnx.load_from_string(exported(Quantized(layer(64, 40)), 64, 40))
    assert [node.op_type for node in model.graph.node].count("Mul") == 2
    assert {"MatMulInteger", "QuantizeLinear"} <= {node.op_type for node in model.graph.node}


def test_a_model_that_would_lose_by_8_bits_has_none() -> None:
    """A batch normalisation that makes much of a unit which hardly moves: its column leaves the others few levels."""
    trained = tiny_model(norm="batch", hidden=16)
    assert unsupported_reason(trained, "int8") is None
    trained.model.norms[0].running_var[0] = 1e-9
    reason = unsupported_reason(trained, "int8")
    assert reason is not None
    assert "nats more per character" in reason
    assert "batch normalisation" in reason
