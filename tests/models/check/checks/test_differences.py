"""The gradient check passes what is right and finds what is wrong."""

from typing import Any

import torch
from torch import Tensor, nn

from models.check.checks.differences import relative_error
from models.network.char_lm import CharLM
from models.network.config import ModelConfig


class _WrongTanh(torch.autograd.Function):
    """tanh with the derivative 1 - tanh instead of 1 - tanh^2."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a.tanh())
        return a.tanh()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * (1 - ctx.saved_tensors[0])


class _Wrong(nn.Module):
    def forward(self, a: Tensor) -> Tensor:
        return _WrongTanh.apply(a)


def _model() -> CharLM:
    torch.manual_seed(0)
    return CharLM(ModelConfig(cell="rnn", form="pre", vocab=5, layers=1, hidden=4, embedding=3)).double()


def test_a_right_backward_pass_agrees() -> None:
    assert relative_error(_model())[0] < 1e-7


def test_a_wrong_derivative_is_found() -> None:
    model = _model()
    model.layers[0].phi = _Wrong()
    error, tensor = relative_error(model)
    assert error > 1e-2
    assert tensor.startswith(("layers.0", "embedding"))
