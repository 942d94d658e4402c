"""The weights of a model as its graphs hold them: batch normalisation becomes part of the layer that reads it."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from models.network.char_lm import CharLM
from models.network.layers import BatchNorm

__all__ = ["Affine", "constant", "head_weights", "layer_weights"]


def constant(tensor: Tensor) -> nn.Parameter:
    """Copy a tensor: the scan operator refuses inputs that share memory."""
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


@dataclass(frozen=True)
class Affine:
    """W x + b: weight [N, K], bias [N]."""

    weight: Tensor
    bias: Tensor

    def after(self, norm: nn.Module) -> "Affine":
        """Fold a batch normalisation of the input, x -> a x + d, into it: W (a x + d) + b = (W a) x + (W d + b)."""
        if not isinstance(norm, BatchNorm):
            return self
        mean, variance = (cast(Tensor, kept).double() for kept in (norm.running_mean, norm.running_var))
        scale = norm.weight.double() / (variance + norm.eps).sqrt()
        shift = norm.bias.double() - mean * scale
        weight = self.weight.double()
        return Affine((weight * scale).to(self.weight), (weight @ shift + self.bias).to(self.bias))


def layer_weights(model: CharLM, number: int) -> tuple[Affine, Affine]:
    """Return a layer's weights for its input, [gates x H, I], and for its own output, [gates x H, O].

    Layer 0 reads tokens: there I is V, and the embedding is part of the weights.
    """
    layer = model.layers[number]
    of_input = Affine(layer.weight_ih, layer.bias_ih)
    if number:
        of_input = of_input.after(model.norms[number - 1])
    elif isinstance(model.embedding, nn.Embedding):
        of_input = Affine(of_input.weight @ model.embedding.weight.T, of_input.bias)
    return of_input, Affine(layer.weight_hh, layer.bias_hh)


def head_weights(model: CharLM) -> Affine:
    return Affine(model.head.weight, model.head.bias).after(model.norms[-1])
