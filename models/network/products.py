"""Matrix products on a processor by oneDNN, whose weights are packed once for several of them.

torch multiplies float32 by MKL, which on many processors leaves half of their arithmetic unused (docs/decisions.md).
"""

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Product", "outer_product", "pack_product"]

# [rows, I] -> [rows, O]
Product = Callable[[Tensor], Tensor]


def pack_product(weights: Tensor, rows: int) -> Product:
    """Return a function that multiplies x [rows, I] by weights [O, I], packed for it once: x W^T, [rows, O]."""
    if not _has_packed(weights.dtype):
        return lambda x: x @ weights.t()
    packed = torch.ops.mkldnn._reorder_linear_weight(weights.contiguous(), rows)

    def multiply(x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), packed, None, "none", [], "")
        return product

    return multiply


def _has_packed(kind: torch.dtype) -> bool:
    if kind == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return kind == torch.float32 and torch.backends.mkldnn.is_available()


def outer_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the sum of the outer products of rows: a [N, O], b [N, I] -> a^T b, [O, I]."""
    if a.dtype == torch.bfloat16:  # of which torch's own product is oneDNN's
        return (b.t() @ a).t()
    return pack_product(b.t(), a.shape[1])(a.t())
