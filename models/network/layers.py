"""The parts of the model: recurrent layers, what stands between them, and how a character becomes numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.network.activations import ACTIVATIONS
from models.network.config import ModelConfig
from models.network.gru_window import gru_window
from models.network.unrolled import LayerState, unroll

__all__ = ["BatchNorm", "LockedDropout", "OneHot", "RecurrentLayer", "dropout", "norm", "pack_for_cudnn"]

PACKED_STEPS = 8  # from which on it pays to pack the weights of a window
_FUSED_CELLS = ("lstm", "gru")
_FUSED_RNN = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}


class RecurrentLayer(nn.Module):
    """One layer; O is the size of what it hands up (H but for maxout of the form pre).

    Its parameters, as torch's own layers have them: `weight_ih` [gates x H, I], `weight_hh` [gates x H, O], `bias_ih`
    [gates x H] and, of a GRU only, `bias_hh` [gates x H]. Elsewhere `bias_hh` is a constant of zeros: a second bias
    would only be counted twice. Where W h' is normalised, `gain` [gates x H] multiplies the result. The gates of an
    LSTM lie in the order i f g o, of a GRU r z n; maxout's are first and second.

    Attributes:
        fused: whether torch has a kernel for all of its steps.
    """

    cell: str
    form: str
    gates: int
    weight_ih: Tensor
    weight_hh: Tensor
    bias_ih: Tensor
    bias_hh: Tensor
    gain: Tensor | None
    phi: nn.Module

    def __init__(self, config: ModelConfig, inputs: int) -> None:
        super().__init__()
        self.cell, self.form, self._activation = config.cell, config.form, config.activation
        self.gates = config.gates
        rows = config.gates * config.hidden
        self.weight_ih = nn.Parameter(torch.zeros(rows, inputs))
        self.weight_hh = nn.Parameter(torch.zeros(rows, config.output))
        self.bias_ih = nn.Parameter(torch.zeros(rows))
        if config.cell == "gru":
            self.bias_hh = nn.Parameter(torch.zeros(rows))
        else:
            self.register_buffer("bias_hh", torch.zeros(rows), persistent=False)
        self.gain = nn.Parameter(torch.ones(rows)) if config.recurrent_norm == "layer" else None
        self.phi = ACTIVATIONS[config.activation].make()
        self.fused = config.cell in _FUSED_CELLS
        if config.cell == "rnn":
            self.fused = config.form == "post" and config.activation in _FUSED_RNN
        self.fused &= self.gain is None

    def forward(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        """Run T steps: x [T, B, I] and the state -> what is handed up [T, B, O], and the state after."""
        if self._runs_in_windows(x):
            weights = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh, self.gain]
            outputs, after = gru_window(x, state[0], weights)
            return outputs, (after,)
        if self.fused:
            return self._kernel(x, state)
        steps = unroll(self, x, state)
        return torch.stack([step.output for step in steps]), steps[-1].state

    def _runs_in_windows(self, x: Tensor) -> bool:
        """Tell whether our GRU runs these steps: on a processor, where it is worth to pack the weights."""
        # Tensors that only stand for others, such as torch's fake ones, have torch's own operators alone.
        is_ours = self.cell == "gru" and not x.is_cuda and type(x) is Tensor
        return is_ours and (torch.is_grad_enabled() or len(x) >= PACKED_STEPS)

    def _kernel(self, x: Tensor, state: LayerState) -> tuple[Tensor, LayerState]:
        weights = [self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh]
        if not x.is_cuda:
            # Tensors that only stand for others, such as torch's fake ones, have torch's own operators alone.
            return self._run(x, state, weights)
        given = pack_for_cudnn(x, state, weights)
        with torch.autocast("cuda", enabled=False):
            return self._run(*given)

    def _run(self, x: Tensor, state: Sequence[Tensor], weights: list[Tensor]) -> tuple[Tensor, LayerState]:
        # cuDNN keeps what a backward pass needs only if it is told that it trains; nothing else hangs on that here.
        options = (True, 1, 0.0, torch.is_grad_enabled(), False, False)
        before = [tensor.unsqueeze(0) for tensor in state]
        if self.cell == "lstm":
            outputs, *after = torch.lstm(x, before, weights, *options)
        else:
            kernel = _FUSED_RNN[self._activation] if self.cell == "rnn" else {"gru": torch.gru}[self.cell]
            outputs, *after = kernel(x, before[0], weights, *options)
        return outputs, tuple(tensor.squeeze(0) for tensor in after)


class OneHot(nn.Module):
    """A character as a unit vector: ids [T, B] -> [T, B, V]."""

    one: Tensor

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.vocab = vocab
        # Knows the device's and the parameters' kind of number.
        self.register_buffer("one", torch.ones(()), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.one_hot(ids, self.vocab).to(self.one.dtype)


class BatchNorm(nn.BatchNorm1d):
    """Mean and variance of each unit over all steps and streams of a window: x [T, B, O]."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).view_as(x)


class LockedDropout(nn.Module):
    """Dropout whose mask stays the same along a window: x [T, B, O] (Gal and Ghahramani, 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.rate):
            return x
        return x * x.new_empty(x.shape[1:]).bernoulli_(1 - self.rate).div_(1 - self.rate)


def dropout(rate: float, locked: bool) -> nn.Module:
    """Return dropout with one mask a window, or with one a step."""
    return LockedDropout(rate) if locked else nn.Dropout(rate)


def norm(config: ModelConfig) -> nn.Module:
    """Return the module that normalises a layer's output before it is read."""
    return {"none": nn.Identity, "batch": BatchNorm, "layer": nn.LayerNorm}[config.norm](config.output)


def pack_for_cudnn(
    x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return input, state and weights in autocast's number type, the weights in one piece of memory.

    Autocast itself would give cuDNN's recurrent kernels float16 whatever it was told, and gradients of a mean over
    thousands of characters are too small for that. Weights in one piece are what cuDNN takes without another copy.

    Args:
        weights: weight_ih, weight_hh, bias_ih, bias_hh: the order in which cuDNN has them in memory.
    """
    device = x.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    flat = torch.cat([tensor.flatten() for tensor in weights]).to(kind)
    parts = flat.split([tensor.numel() for tensor in weights])
    together = [part.view_as(tensor) for part, tensor in zip(parts, weights, strict=True)]
    return x.to(kind), [tensor.to(kind) for tensor in state], together
