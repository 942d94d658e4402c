"""Matmuls in 8 bits whose activation scale is a constant.

The hidden state of an LSTM, a GRU and a tanh or sigmoid RNN lies between -1 and 1 by construction. So 1/127 is its
scale for every text, and no row's scale depends on another row. A weight has one scale per column. Products and sums
are exact integers; the weight is rounded once (export/graph/rounding.py), and the input at every step.

Both operators are torch custom operators: a quantised model runs in torch, and is exported by translation.
"""

from collections.abc import Callable

import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

from export.graph.rounding import LEVELS, IntegerWeights

__all__ = ["TRANSLATIONS", "Int8Dense", "quantize"]

ZERO = 128  # an input x is stored as round(127 x) + 128
SCALE = 1 / LEVELS
# float32 adds integers exactly below 2**24; a product is at most 127 x 127.
EXACT_FLOAT32_INPUTS = 2**24 // LEVELS**2


@torch.library.custom_op("charstream::quantize", mutates_args=())
def quantize(x: Tensor) -> Tensor:
    """Round x, float32 between -1 and 1, to uint8: round(127 x) + 128, halves to even."""
    return (torch.round(x / torch.tensor(SCALE)).clamp(-ZERO, LEVELS) + ZERO).to(torch.uint8)


def _exact_type(weight: Tensor) -> torch.dtype:
    """Return the floats in which the sums of products with `weight` [K, N] are exact."""
    return torch.float32 if len(weight) <= EXACT_FLOAT32_INPUTS else torch.float64


@torch.library.custom_op("charstream::int8_matmul", mutates_args=())
def int8_matmul(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """Multiply x uint8 [B, K] of `quantize` by weight int8 [K, N] with column scales float32 [N] -> float32 [B, N]."""
    exact = _exact_type(weight)
    total = (x.to(exact) - ZERO) @ weight.to(exact)
    return total.to(torch.float32) * (torch.tensor(SCALE) * scale)


@quantize.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


@int8_matmul.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return scale.new_empty(x.shape[0], weight.shape[1])


def _quantize_onnx(x):  # type: ignore[no-untyped-def]
    return op.QuantizeLinear(x, _scale(), _zero())


def _int8_matmul_onnx(x, weight, scale):  # type: ignore[no-untyped-def]
    # onnxruntime fuses these four into one operator if the product of both scales is not folded.
    return op.Mul(op.Cast(op.MatMulInteger(x, weight, _zero()), to=1), op.Mul(_scale(), scale))


def _scale():  # type: ignore[no-untyped-def]
    return op.Constant(value_float=SCALE)


def _zero():  # type: ignore[no-untyped-def]
    return op.Cast(op.Constant(value_int=ZERO), to=2)  # type: ignore[type-var]


TRANSLATIONS: dict[Callable[..., object], Callable[..., object]] = {
    torch.ops.charstream.quantize.default: _quantize_onnx,
    torch.ops.charstream.int8_matmul.default: _int8_matmul_onnx,
}


class Int8Dense(nn.Module):
    """y = x W + b with W in 8 bits: x uint8 [B, K] of `quantize`, W [K, N] -> float32 [B, N]."""

    def __init__(self, weights: IntegerWeights, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weights.integers, requires_grad=False)
        self.scale = nn.Parameter(weights.scale, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = int8_matmul(x, self.weight, self.scale)
        return y if self.bias is None else y + self.bias

    def unpack(self) -> None:
        """Hold W as the floats that torch multiplies: the same bits, and not converted at every step."""
        self.weight = nn.Parameter(self.weight.to(_exact_type(self.weight)), requires_grad=False)
