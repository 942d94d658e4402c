"""Files as the tests of the export need them."""

import onnx

from tests.conftest import Files, with_used_norms

__all__ = ["Files", "weights_of", "with_used_norms"]


def weights_of(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the weights of a graph and of its loops."""
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return [tensor for graph in (model.graph, *bodies) for tensor in graph.initializer]
