"""First weights, by the name of the rule that draws them.

Each gate's matrix is drawn for itself, [H, n_in] with n_out = H. All biases begin at 0, but those of an LSTM's forget
gates, which begin open (Jozefowicz et al., 2015): what a cell holds, it keeps until it learns better.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from models.network.char_lm import CharLM

__all__ = ["Init", "initialise"]

Init = Literal[
    "torch", "xavier_uniform", "xavier_normal", "lecun_normal", "he", "orthogonal", "normal", "uniform", "zeros"
]
Fill = Callable[[Tensor], object]


def initialise(model: "CharLM", init: Init, *, scale: float = 0.01, forget_bias: float = 1.0) -> None:
    """Draws all weights anew, from torch's random numbers.

    Args:
        init: torch: uniform within 1/sqrt(H), as torch's own layers begin; xavier_uniform and xavier_normal: variance
            2 / (n_in + n_out) (Glorot and Bengio, 2010); lecun_normal: 1 / n_in (LeCun et al., 1998); he: 2 / n_in (He
            et al., 2015); orthogonal (Saxe et al., 2014); normal: standard deviation `scale`; uniform: within `scale`;
            zeros: all units stay alike for ever.
        scale: of normal and uniform.
        forget_bias: of an LSTM.

    Rules that look at n_in are made for inputs of variance 1, so with them, as with torch, an embedding is drawn from
    N(0, 1). normal, uniform and zeros fill it as every other matrix.
    """
    fill = _fills(scale, model.config.hidden)[init]
    with torch.no_grad():
        _embedding(model, fill if init in ("normal", "uniform", "zeros") else nn.init.normal_)
        for matrix in _matrices(model):
            fill(matrix)
        _biases(model, forget_bias)


def _fills(scale: float, hidden: int) -> dict[str, Fill]:
    bound = hidden**-0.5
    return {
        "torch": partial(nn.init.uniform_, a=-bound, b=bound),
        "xavier_uniform": nn.init.xavier_uniform_,
        "xavier_normal": nn.init.xavier_normal_,
        "lecun_normal": partial(nn.init.kaiming_normal_, nonlinearity="linear"),
        "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
        "orthogonal": nn.init.orthogonal_,
        "normal": partial(nn.init.normal_, std=scale),
        "uniform": partial(nn.init.uniform_, a=-scale, b=scale),
        "zeros": nn.init.zeros_,
    }


def _embedding(model: "CharLM", fill: Fill) -> None:
    if isinstance(model.embedding, nn.Embedding):
        fill(model.embedding.weight)


def _matrices(model: "CharLM") -> Iterator[Tensor]:
    """Each [n_out, n_in]."""
    for layer in model.layers:
        for stacked in (layer.weight_ih, layer.weight_hh):
            yield from stacked.chunk(model.config.gates)
    yield model.head.weight


def _biases(model: "CharLM", forget_bias: float) -> None:
    for layer in model.layers:
        layer.bias_ih.zero_()
        layer.bias_hh.zero_()
        if model.config.cell == "lstm":
            layer.bias_ih.chunk(4)[1].fill_(forget_bias)
    model.head.bias.zero_()
