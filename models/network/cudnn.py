"""What cuDNN's recurrent kernels want: one kind of number for everything, and a layer's weights in one piece."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["for_cudnn"]


def for_cudnn(
    x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Input, state and weights in the number that autocast has in mind, the weights one behind the other.

    Autocast itself would give these kernels float16 whatever it was told, and gradients of a mean over thousands of
    characters are too small for that. Weights in one piece are what cuDNN takes without another copy.

    Args:
        weights: weight_ih, weight_hh, bias_ih, bias_hh: the order in which cuDNN has them in memory.
    """
    device = x.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    flat = torch.cat([tensor.flatten() for tensor in weights]).to(kind)
    parts = flat.split([tensor.numel() for tensor in weights])
    together = [part.view_as(tensor) for part, tensor in zip(parts, weights, strict=True)]
    return x.to(kind), [tensor.to(kind) for tensor in state], together
