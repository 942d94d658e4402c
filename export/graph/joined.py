"""Recurrent layers for a device, where each operator is a launch: one matmul gives the sums of all gates.

On the CPU a matmul for each gate is faster (export/graph/cells.py): no result is split there.
"""

from collections.abc import Callable

import torch
from onnxscript import opset20 as op
from torch import Tensor, nn

from export.graph.cells import Dense, FirstLayer, FurtherLayer, Sums
from export.graph.folding import constant

__all__ = ["TRANSLATIONS", "JoinedFirstLayer", "JoinedFurtherLayer", "join"]


@torch.library.custom_op("charstream::split", mutates_args=())
def split(x: Tensor, count: int) -> list[Tensor]:
    """Return the parts of x [B, count x H], each [B, H]: one operator in ONNX, where torch's own becomes several."""
    return [part.clone(memory_format=torch.contiguous_format) for part in x.chunk(count, 1)]


@split.register_fake
def _(x: Tensor, count: int) -> list[Tensor]:
    return [x.new_empty(x.shape[0], x.shape[1] // count) for _ in range(count)]


def _split_onnx(x, count):  # type: ignore[no-untyped-def]
    return op.Split(x, axis=1, num_outputs=count)


TRANSLATIONS: dict[Callable[..., object], Callable[..., object]] = {torch.ops.charstream.split.default: _split_onnx}


def join(layer: nn.Module) -> "JoinedFirstLayer | JoinedFurtherLayer":
    """Return a layer that computes what a layer of export/graph/cells.py does."""
    if isinstance(layer, FirstLayer):
        return JoinedFirstLayer(layer)
    assert isinstance(layer, FurtherLayer)
    return JoinedFurtherLayer(layer)


class JoinedFirstLayer(nn.Module):
    """The layer that reads a character: a row of one table [V, gates x H], and one matmul of its own output."""

    def __init__(self, layer: FirstLayer) -> None:
        super().__init__()
        tables, hidden = list(layer.tables), [_dense(module) for module in layer.hidden]
        self.together = layer.together
        self.table, self.hidden, self.norms = constant(torch.cat(tables, 1)), _join(hidden), layer.norms

    def forward(self, token: Tensor, h: Tensor) -> Sums:
        return _sums(nn.functional.embedding(token, self.table), self.hidden(h), self.norms, self.together)


class JoinedFurtherLayer(nn.Module):
    """A layer that reads the output of the layers below: one matmul of both, or of each if a gate keeps them apart."""

    def __init__(self, layer: FurtherLayer) -> None:
        super().__init__()
        both, of_x, of_h = ([_dense(m) for m in modules] for modules in (layer.both, layer.of_x, layer.of_h))
        self.gates, self.together, self.norms = len(both) + len(of_x), len(both) + layer.added, layer.norms
        if of_x:
            self.norms = nn.ModuleList([*(nn.Identity() for _ in both), *layer.norms])
            size = len(of_x[0].weight)
            of_x = [*(Dense(dense.weight[:size], dense.bias) for dense in both), *of_x]
            of_h = [*(Dense(dense.weight[size:], None) for dense in both), *of_h]
            self.of_x, self.of_h = _join(of_x), _join(of_h)
        else:
            self.both = _join(both)

    def forward(self, x: Tensor, h: Tensor) -> Sums:
        if self.norms:
            return _sums(self.of_x(x), self.of_h(h), self.norms, self.together)
        return _parts(self.both(torch.cat([x, h], 1)), self.gates), []


def _sums(of_x: Tensor, of_h: Tensor, norms: nn.ModuleList, together: int) -> Sums:
    gates = len(norms)
    if together == gates and isinstance(norms[0], nn.Identity):
        return _parts(of_x + of_h, gates), []
    products = [norm(part) for norm, part in zip(norms, _parts(of_h, gates), strict=True)]
    pairs = list(zip(_parts(of_x, gates), products, strict=True))
    return [x + h for x, h in pairs[:together]], pairs[together:]


def _parts(x: Tensor, count: int) -> list[Tensor]:
    return split(x, count) if count > 1 else [x]


def _join(gates: list[Dense]) -> Dense:
    """Join matmuls of the same input; a gate without a bias has zeros, unless none has one."""
    weight = torch.cat([dense.weight for dense in gates], 1)
    if all(dense.bias is None for dense in gates):
        return Dense(weight, None)
    return Dense(weight, torch.cat([_bias(dense) for dense in gates]))


def _bias(dense: Dense) -> Tensor:
    return torch.zeros(dense.weight.shape[1]) if dense.bias is None else dense.bias


def _dense(module: nn.Module) -> Dense:
    assert isinstance(module, Dense)
    return module
