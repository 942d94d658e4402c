"""Models and files as the tests of the export need them."""

import onnx
import torch

from bundle.manifest import Manifest
from models.training.checkpoint import Trained

__all__ = ["Files", "weights_of", "with_used_norms"]

Files = tuple[Manifest, dict[str, bytes]]


def with_used_norms(trained: Trained) -> Trained:
    """Give a model's normalisations weights and statistics that are not the initial ones."""
    for tensor in trained.model.norms.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.3, 1.7, generator=torch.Generator().manual_seed(0))
    return trained


def weights_of(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Return the weights of a graph and of its loops."""
    bodies = [a.g for node in model.graph.node for a in node.attribute if a.HasField("g")]
    return [tensor for graph in (model.graph, *bodies) for tensor in graph.initializer]
