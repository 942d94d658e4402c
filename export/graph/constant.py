"""Weights as a graph has them."""

import torch
from torch import Tensor, nn

__all__ = ["constant"]


def constant(tensor: Tensor) -> nn.Parameter:
    """A copy of its own: the scan operator refuses inputs that share memory."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)
