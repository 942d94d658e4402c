"""First weights, by the name of the rule that draws them.

Each gate's matrix is drawn for itself, [H, n_in] with n_out = H. All biases begin at 0, but those of an LSTM's forget
gates, which begin open (Jozefowicz et al., 2015): what a cell holds, it keeps until it learns better.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol

from torch import Tensor, nn, no_grad

from models.network.config import Init, ModelConfig
from models.network.unrolled import Layer

__all__ = ["initialise"]

Fill = Callable[[Tensor], object]


class Network(Protocol):
    """The parts of a `CharLM` whose weights are drawn."""

    @property
    def config(self) -> ModelConfig: ...
    @property
    def embedding(self) -> nn.Module: ...
    @property
    def layers(self) -> Sequence[Layer]: ...
    @property
    def head(self) -> nn.Linear: ...


def initialise(model: Network, init: Init, *, scale: float = 0.01, forget_bias: float = 1.0) -> None:
    """Draw all weights anew, from torch's random numbers.

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
    with no_grad():
        if isinstance(model.embedding, nn.Embedding):
            (fill if init in ("normal", "uniform", "zeros") else nn.init.normal_)(model.embedding.weight)
        for matrix in _matrices(model):
            fill(matrix)
        _set_biases(model, forget_bias)


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


def _matrices(model: Network) -> Iterator[Tensor]:
    """Yield each gate's matrix and the head's, [n_out, n_in]."""
    for layer in model.layers:
        for stacked in (layer.weight_ih, layer.weight_hh):
            yield from stacked.chunk(model.config.gates)
    yield model.head.weight


def _set_biases(model: Network, forget_bias: float) -> None:
    for layer in model.layers:
        layer.bias_ih.zero_()
        layer.bias_hh.zero_()
        if model.config.cell == "lstm":
            layer.bias_ih.chunk(4)[1].fill_(forget_bias)
    model.head.bias.zero_()
