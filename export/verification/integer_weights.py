"""The weights of 8 bits that a file has: are they the model's, and are sums of them exact on this machine?

Which of two neighbouring levels a weight is rounded to depends on the texts that export rounded for, and older bundles
were rounded otherwise. So the reference of a file has the file's integers, and these are compared with the model.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import torch

from bundle import onnx_header_pb2 as header
from bundle.pair_bound import (
    WORST_ROWS,
    Exceeded,
    check_pairs,
    exact_product,
    is_bounded,
    matmul_graph,
    worst_inputs,
)
from export.graph.cells import Dense
from export.graph.rounding import IntegerWeights
from export.verification.onnx_session import OnnxSession

__all__ = ["NotTheModels", "check_integers", "check_sums", "integers_of"]

# Rounded to nearest, a weight is off by half a level; where errors were passed on, by 2.3 in trained models. A column
# was longer or shorter by 0.3 %.
MOST_LEVELS, MOST_GAIN = 8.0, 0.03


class NotTheModels(ValueError):
    """A file's weights of 8 bits are not those of the model. The message is one line."""


def integers_of(data: bytes, matmuls: Mapping[str, Dense]) -> dict[str, IntegerWeights]:
    """Return the weights of the matmuls in an int8 file. Raises NotTheModels."""
    graph = onnx.load_from_string(data).graph
    bodies = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    tensors = {tensor.name: tensor for part in (graph, *bodies) for tensor in part.initializer}
    try:
        return {name: IntegerWeights(*_read(tensors, f"step.{name}")) for name in matmuls}
    except KeyError as error:
        raise NotTheModels(f"no weights {error}: it was not written by this version of charstream") from None


def _read(tensors: Mapping[str, onnx.TensorProto], name: str) -> tuple[torch.Tensor, ...]:
    arrays = (onnx.numpy_helper.to_array(tensors[f"{name}.{part}"]) for part in ("weight", "scale"))
    return tuple(torch.from_numpy(array.copy()) for array in arrays)


def check_integers(found: Mapping[str, IntegerWeights], matmuls: Mapping[str, Dense]) -> None:
    """Raise NotTheModels unless the weights are the model's to a few levels, and the columns as long as the model's."""
    for name, dense in matmuls.items():
        expected, scale = dense.weight.double(), found[name].scale.double()
        if found[name].integers.shape != expected.shape:
            raise NotTheModels(
                f"{name}: {list(found[name].integers.shape)} weights, the model has {list(expected.shape)}"
            )
        weights = found[name].integers * scale
        levels = (weights - expected).abs().amax(0) / scale
        length = expected.square().sum(0)
        gain = torch.where(length > 0, (weights * expected).sum(0) / length, 1.0)
        wrong = ~((levels <= MOST_LEVELS) & ((gain - 1).abs() <= MOST_GAIN))  # no comparison accepts NaN
        if wrong.any():
            column = int(wrong.int().argmax())
            raise NotTheModels(
                f"{name}: the weights of column {column} are off by up to {levels[column]:.3g} levels and "
                f"{gain[column]:.3g} times as long as the model's (allowed: {MOST_LEVELS:g}; 1 to {MOST_GAIN:g})"
            )


def check_sums(data: bytes, found: Mapping[str, IntegerWeights]) -> None:
    """Raise NotTheModels unless sums of a file's bounded weights are exact on this machine, at their largest.

    Weights without the bound are multiplied by instructions that are exact for all (onnx_session.py).
    """
    if not is_bounded(header.Model.FromString(data)):
        return
    for name, weights in found.items():
        integers = weights.integers.numpy()
        try:
            check_pairs(name, integers)
        except Exceeded as error:
            raise NotTheModels(str(error)) from None
        session = OnnxSession(matmul_graph(integers))
        for rows in WORST_ROWS:
            x = worst_inputs(integers, rows)
            if not np.array_equal(session.run({"x": x})["y"], exact_product(x, integers)):
                raise NotTheModels(f"{name}: sums of {rows} rows are not exact on this processor")
