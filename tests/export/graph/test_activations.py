"""The graphs' nonlinearities are the model's, and give a row the same bits however many rows there are."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bundle.graph_contract import FLOAT, TensorSpec
from export.graph.activations import Activation
from export.onnx_file import to_onnx
from export.verification.onnx_session import OnnxSession
from models.network.activations import ACTIVATIONS

ROWS, SIZE = 70, 50


class All(nn.Module):
    """Every activation of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.phis = nn.ModuleList(Activation(name, phi.make()) for name, phi in ACTIVATIONS.items())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(phi(x) for phi in self.phis)


@pytest.fixture(scope="module")
def runtime() -> OnnxSession:
    sizes = {name: SIZE // 2 if name == "maxout" else SIZE for name in ACTIVATIONS}
    outputs = tuple(TensorSpec(name, FLOAT, ("B", size)) for name, size in sizes.items())
    return OnnxSession(to_onnx(All(), (torch.zeros(3, SIZE),), (TensorSpec("x", FLOAT, ("B", SIZE)),), outputs, {}))


@pytest.fixture(scope="module")
def x() -> NDArray[np.float32]:
    x = (np.random.default_rng(0).normal(size=(ROWS, SIZE)) * 5).astype(np.float32)
    x[0], x[1, :2] = 0, (100, -100)
    return x


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_models(name: str, runtime: OnnxSession, x: NDArray[np.float32]) -> None:
    with torch.no_grad():
        expected = ACTIVATIONS[name].make().double()(torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(runtime.run({"x": x})[name], expected, rtol=1e-6, atol=2e-7)


def test_a_row_has_the_same_bits_in_every_batch(runtime: OnnxSession, x: NDArray[np.float32]) -> None:
    together = runtime.run({"x": x})
    parts = [slice(0, batch) for batch in range(1, ROWS)] + [slice(row, row + 1) for row in range(ROWS)]
    for part in parts:
        for name, values in runtime.run({"x": x[part]}).items():
            np.testing.assert_array_equal(values, together[name][part], err_msg=name)
