"""The graphs of a bundle, written in torch: one step, and the decode loop of K steps for B rows.

Weights are laid out for the runtime's matmul: one matrix per gate, so that nothing is split, and layer 0's input
projection as a table with one row per character, so that it is a lookup.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch._higher_order_ops.scan import scan

from models.generate import LARGEST_UNIFORM
from models.model import CharLM

__all__ = ["DecodeGraph", "StepGraph", "sample"]

GATES = ("input", "forget", "cell", "output")  # torch's order in its stacked LSTM weights


class LookupLayer(nn.Module):
    """The first LSTM layer: its input is a character, so the input projection is a row of a table [V, H]."""

    def __init__(self, embedding: Tensor, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.tables = _constants(embedding @ w.T + b for w, b in zip(_gates(weight_ih), _gates(bias), strict=True))
        self.weights = _constants(w.T for w in _gates(weight_hh))

    def forward(self, token: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        rows = (nn.functional.embedding(token, table) for table in self.tables)
        return _update([row + h @ w for row, w in zip(rows, self.weights, strict=True)], c)


class MatmulLayer(nn.Module):
    """A further LSTM layer: one matmul per gate on the input and the hidden state side by side, [B, 2H]."""

    def __init__(self, weight_ih: Tensor, weight_hh: Tensor, bias: Tensor) -> None:
        super().__init__()
        both = zip(_gates(weight_ih), _gates(weight_hh), strict=True)
        self.weights = _constants(torch.cat(pair, 1).T for pair in both)
        self.biases = _constants(_gates(bias))

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        xh = torch.cat([x, h], 1)
        return _update([xh @ w + b for w, b in zip(self.weights, self.biases, strict=True)], c)


class StepGraph(nn.Module):
    """step.onnx: token [B] and the state -> logits [B, V] and the state one step later."""

    def __init__(self, model: CharLM) -> None:
        super().__init__()
        lstm, layers = model.lstm, model.config.layers
        stacked = [
            (lstm.get_parameter(f"weight_ih_l{l}"), lstm.get_parameter(f"weight_hh_l{l}")) for l in range(layers)
        ]
        biases = [lstm.get_parameter(f"bias_ih_l{l}") + lstm.get_parameter(f"bias_hh_l{l}") for l in range(layers)]
        first = LookupLayer(model.embedding.weight, *stacked[0], biases[0])
        further = (MatmulLayer(*weights, bias) for weights, bias in zip(stacked[1:], biases[1:], strict=True))
        self.layers = nn.ModuleList([first, *further])
        self.head = _constant(model.head.weight.T)
        self.head_bias = _constant(model.head.bias)

    def forward(self, token: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        x, after = token, []
        for layer, h, c in zip(self.layers, state[0::2], state[1::2], strict=True):
            x, c_next = layer(x, h, c)
            after += [x, c_next]
        return (x @ self.head + self.head_bias, *after)


class DecodeGraph(nn.Module):
    """decode.onnx: K steps in which each row is, step by step, forced or sampled."""

    def __init__(self, step: StepGraph) -> None:
        super().__init__()
        self.step = step

    def forward(
        self, token: Tensor, forced: Tensor, uniform: Tensor, steps: Tensor, temperature: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        """Runs the loop: token [B], forced and uniform [K, B], steps and temperature [B], each state tensor [B, H].

        Returns:
            tokens [K, B] (-1 where a row no longer advanced), the last token [B] of each row, and the state.
        """
        step_index = torch.arange(forced.shape[0])
        uniform = uniform.clamp(max=LARGEST_UNIFORM)

        def body(carry: list[Tensor], step: tuple[Tensor, ...]) -> tuple[list[Tensor], list[Tensor]]:
            token, *before = carry
            k, forced, uniform = step
            logits, *after = self.step(token, *before)
            outcome = torch.where(forced >= 0, forced, sample(logits, temperature, uniform))
            active = k < steps
            kept = [torch.where(active.unsqueeze(1), new, old) for new, old in zip(after, before, strict=True)]
            return [torch.where(active, outcome, token), *kept], [torch.where(active, outcome, -1)]

        (token, *after), (tokens,) = scan(body, [token, *state], [step_index, forced, uniform])
        return (tokens, token, *after)


def sample(logits: Tensor, temperature: Tensor, uniform: Tensor) -> Tensor:
    """The outcome of one step: logits [B, V], temperature [B] (0: the most probable), uniform [B] -> [B] int64.

    Inverse CDF in vocabulary order: the first character whose cumulated probability exceeds uniform x the total.
    """
    greedy = temperature == 0
    scale = torch.where(greedy, 1.0, temperature).unsqueeze(1)
    # Nothing overflows below the largest logit, however small the temperature.
    below = logits - logits.amax(1, keepdim=True)
    cdf = torch.softmax(below / scale, 1).cumsum(1)
    threshold = uniform.unsqueeze(1) * cdf[:, -1:]
    return torch.where(greedy, logits.argmax(1), (cdf <= threshold).sum(1))


def _gates(stacked: Tensor) -> list[Tensor]:
    return list(stacked.chunk(len(GATES)))


def _update(gates: list[Tensor], c: Tensor) -> tuple[Tensor, Tensor]:
    """h and c after the step, as torch.nn.LSTM defines them."""
    i, f, g, o = gates
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _constant(tensor: Tensor) -> nn.Parameter:
    # A copy of its own: the scan operator refuses inputs that share memory.
    return nn.Parameter(tensor.detach().clone(memory_format=torch.contiguous_format), requires_grad=False)


def _constants(tensors: Iterable[Tensor]) -> nn.ParameterList:
    return nn.ParameterList([_constant(tensor) for tensor in tensors])
