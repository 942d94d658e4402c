"""16 bits: what a matmul on a device rounds, and who has no use for it."""

import re

import onnx
import pytest
import torch
from onnx import TensorProto

from bundle.manifest import Manifest
from bundle.read import decode_file
from export.build import build, unsupported_reason
from export.graph.bounds import Unbounded
from export.graph.fp16 import HalfDense
from export.graph.modules import StepGraph
from export.quantization_cost import MAX_COST, quantization_cost
from tests.conftest import tiny_model


def test_inputs_and_result_have_16_bits_and_the_sums_32() -> None:
    """Added up in 16 bits, ones stop at 2048."""
    dense = HalfDense(torch.ones(4096, 3), torch.tensor([0.0, 1e-3, -0.25]))
    assert dense(torch.ones(2, 4096).half()).tolist() == [[4096.0, 4096.0009765625, 4095.75]] * 2
    third = HalfDense(torch.full((1, 1), 1 / 3), None)
    assert third(torch.ones(1, 1).half()).item() == torch.tensor(1 / 3).half().item()


def test_every_matmul_of_the_layers_reads_16_bits(device_files: tuple[Manifest, dict[str, bytes]]) -> None:
    """One in float32 would be slow on a device, and nobody would see why. Sampling has none: TF32 would round it."""
    model = onnx.load_from_string(device_files[1][decode_file("fp16-cuda", 4)])
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    matmuls = [node.input[1] for node in model.graph.node if node.op_type == "MatMul"]
    assert [types[name] for name in matmuls] == 4 * (1 + 1 + 1) * [TensorProto.FLOAT16]
    assert {name for name, element in types.items() if element == TensorProto.FLOAT16} <= set(matmuls)


def test_what_a_layer_reads_is_cast_once_a_step(device_files: tuple[Manifest, dict[str, bytes]]) -> None:
    graph = onnx.load_from_string(device_files[1][decode_file("fp16-cuda", 16)]).graph
    casts = [attribute for node in graph.node if node.op_type == "Cast" for attribute in node.attribute]
    to_16_bits = [attribute for attribute in casts if attribute.name == "to" and attribute.i == TensorProto.FLOAT16]
    assert len(to_16_bits) == 2 * (1 + 16)  # two layers: at the beginning, and after each step


def test_a_state_stays_float32() -> None:
    """In 16 bits a cell state would lose what it adds up."""
    step, token = StepGraph(tiny_model(hidden=8).model).in_precision("fp16-cuda"), torch.zeros(2, dtype=torch.int64)
    state = [torch.full((2, 8), 0.1) for _ in range(4)]
    assert all(tensor.dtype == torch.float32 for tensor in step(token, *state))


def test_it_costs_a_usual_model_nothing() -> None:
    trained = tiny_model()
    assert unsupported_reason(trained, "fp16-cuda") is None
    assert 0 < quantization_cost(trained.model, 0, "fp16-cuda") < MAX_COST / 3
    assert abs(quantization_cost(trained.model, 0, "fp32-cuda")) < 1e-6


def test_weights_that_nearly_cancel_out_are_refused_with_what_they_would_lose() -> None:
    """Two units that are always the same, read with opposite weights of some thousands."""
    trained = tiny_model(hidden=16)
    model, generator = trained.model, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.layers[-1].parameters():
            units = tensor.view(4, 16, *tensor.shape[1:])
            units[:, 1] = units[:, 0]
        large = 4000 * torch.randn(len(model.head.weight), generator=generator)
        model.head.weight[:, 0] += large
        model.head.weight[:, 1] -= large
    reason = unsupported_reason(trained, "fp16-cuda")
    assert re.fullmatch(
        r"it would lose \d+\.\d{3} nats more per character, at most 0\.003 are allowed", reason or ""
    ), reason
    assert unsupported_reason(trained, "fp32-cuda") is None


def test_numbers_beyond_16_bits_are_refused() -> None:
    trained = tiny_model(hidden=16)
    with torch.no_grad():
        trained.model.head.weight.mul_(1e5)
    assert unsupported_reason(trained, "fp16-cuda") == "it reaches numbers that are not finite there, beyond 65504"


def test_numbers_that_grow_without_a_bound_are_refused() -> None:
    trained = tiny_model(cell="rnn", activation="relu", hidden=8)
    assert unsupported_reason(trained, "fp16-cuda") == "layers.0 reads its own output again, and relu has no bound"
    assert unsupported_reason(trained, "fp32-cuda") is None
    with pytest.raises(Unbounded, match=r"this model has no fp16-cuda: layers\.0 reads"):
        build(trained, "cell", "1", ["fp32", "fp16-cuda"])


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"residual": True, "layers": 3}])
def test_what_8_bits_cannot_16_bits_can(options: dict[str, object]) -> None:
    trained = tiny_model(hidden=16, **options)
    assert unsupported_reason(trained, "int8") is not None
    assert unsupported_reason(trained, "fp16-cuda") is None
