"""Matmuls in 16 bits, for a device that has units for them.

Both inputs of a matmul are float16, its sums are float32, and its result is rounded to float16. Tables, sums,
nonlinearities and states stay float32. No row depends on another one, as nothing is scaled.

Both operators are torch custom operators: torch's own matmul may add up in 16 bits on some processors.
"""

from collections.abc import Callable

import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

__all__ = ["TRANSLATIONS", "HalfDense", "half"]

_FLOAT, _FLOAT16 = 1, 10  # ONNX's codes of element types


@torch.library.custom_op("charstream::half", mutates_args=())
def half(x: Tensor) -> Tensor:
    """Round x float32 to float16."""
    return x.half()


@half.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.float16)


@torch.library.custom_op("charstream::half_matmul", mutates_args=())
def half_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x float16 [B, K] by weight float16 [K, N] -> float32 [B, N] with float16's precision and range."""
    return (x.float() @ weight.float()).half().float()


@half_matmul.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1], dtype=torch.float32)


def _half_onnx(x):  # type: ignore[no-untyped-def]
    return op.Cast(x, to=_FLOAT16)


def _half_matmul_onnx(x, weight):  # type: ignore[no-untyped-def]
    return op.Cast(op.MatMul(x, weight), to=_FLOAT)


TRANSLATIONS: dict[Callable[..., object], Callable[..., object]] = {
    torch.ops.charstream.half.default: _half_onnx,
    torch.ops.charstream.half_matmul.default: _half_matmul_onnx,
}


class HalfDense(nn.Module):
    """y = x W + b with W in 16 bits: x float16 [B, K], W [K, N] -> float32 [B, N]."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.half(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = half_matmul(x, self.weight)
        return y if self.bias is None else y + self.bias

    def unpack(self) -> None:
        """Hold W as the floats that torch multiplies: the same bits, and not converted at every step."""
        self.weight = nn.Parameter(self.weight.float(), requires_grad=False)
