"""The contract of a bundle's ONNX files: operators, tensor names, types and shapes.

Only a part of a file is read (bundle/onnx_header.proto), so a wrong one is refused before a runtime sees it.
"""

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, replace

from google.protobuf.message import DecodeError

from bundle import onnx_header_pb2 as onnx
from bundle.manifest import ModelShape
from bundle.pair_bound import Exceeded, check_tensors, is_bounded

__all__ = [
    "DEVICE_OPERATORS",
    "DEVICE_STEPS",
    "OPERATORS",
    "GraphError",
    "TensorSpec",
    "check_graph",
    "decode_inputs",
    "decode_outputs",
    "device_inputs",
    "device_outputs",
    "full_inputs",
    "full_outputs",
    "step_inputs",
    "step_outputs",
]

FLOAT, INT64 = 1, 7  # ONNX's codes of element types
MAX_IR, OPSETS = 10, range(17, 21)
_TYPE_NAMES = {FLOAT: "float32", INT64: "int64"}
# The operators that export writes. None can loop forever, or make a tensor whose size depends on another one's values.
# fmt: off
OPERATORS = {
    "Add", "Cast", "Clip", "Concat", "CumSum", "Div", "Exp", "Gather", "GatherElements", "Greater", "GreaterOrEqual",
    "Identity", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "LogSoftmax", "MatMul", "MatMulInteger",
    "Max", "Min", "Mul", "Neg", "QuantizeLinear", "ReduceMax", "ReduceSum", "Relu", "Scan", "Sigmoid", "Slice", "Sub",
    "Tanh", "TopK", "Unsqueeze", "Where",
}
# fmt: on
# The operators of graphs for a device: no loop, and none that lacks a CUDA kernel for its types.
DEVICE_OPERATORS = OPERATORS - {"MatMulInteger", "QuantizeLinear", "Scan"} | {"Softmax", "Split"}
# A bundle has one graph for a device for each of these step counts.
DEVICE_STEPS = (4, 16, 64)


class GraphError(ValueError):
    """An ONNX file is not the graph that its place in the bundle asks for."""


@dataclass(frozen=True)
class TensorSpec:
    """A graph input or output.

    Attributes:
        shape: numbers, or the names of sizes that vary: B rows, K steps; on a device R held rows and S staged rows.
    """

    name: str
    type: int
    shape: tuple[int | str, ...]

    def __str__(self) -> str:
        return f"{self.name} {_TYPE_NAMES.get(self.type, self.type)} {list(self.shape)}"


def step_inputs(model: ModelShape) -> tuple[TensorSpec, ...]:
    return (TensorSpec("token", INT64, ("B",)), *_state_specs(model))


def step_outputs(model: ModelShape, vocab: int) -> tuple[TensorSpec, ...]:
    return (TensorSpec("logits", FLOAT, ("B", vocab)), *_state_specs(model, "_next"))


def decode_inputs(model: ModelShape) -> tuple[TensorSpec, ...]:
    return (*_loop_inputs(), *_state_specs(model))


def decode_outputs(model: ModelShape) -> tuple[TensorSpec, ...]:
    return (*_loop_outputs(), *_state_specs(model, "_next"))


def full_inputs(model: ModelShape, vocab: int) -> tuple[TensorSpec, ...]:
    limits = (
        TensorSpec("bias", FLOAT, ("B", vocab)),
        TensorSpec("top_k", INT64, ("B",)),
        TensorSpec("top_p", FLOAT, ("B",)),
        TensorSpec("min_p", FLOAT, ("B",)),
    )
    return (*_loop_inputs(), *limits, *_state_specs(model))


def full_outputs(model: ModelShape, vocab: int) -> tuple[TensorSpec, ...]:
    return (*_loop_outputs(), TensorSpec("logprobs", FLOAT, ("K", "B", vocab)), *_state_specs(model, "_next"))


def device_inputs(model: ModelShape, loop: tuple[TensorSpec, ...], steps: int) -> tuple[TensorSpec, ...]:
    """Return the inputs of a device graph of `steps` steps, given those of its loop (decode_inputs or full_inputs).

    Row b of a run starts as row source[b] of all rows: first the held ones, then the staged ones.
    """
    token, *others = loop[: -len(model.state_names)]
    state = loop[-len(model.state_names) :]
    return (
        _with_rows(token, "R"),
        TensorSpec("source", INT64, ("B",)),
        _staged_spec(token),
        *(_with_steps(spec, steps) for spec in others),
        *(_with_rows(spec, "R") for spec in state),
        *map(_staged_spec, state),
    )


def device_outputs(loop: tuple[TensorSpec, ...], steps: int) -> tuple[TensorSpec, ...]:
    """Return the outputs of a device graph of `steps` steps, given those of its loop."""
    return tuple(_with_steps(spec, steps) for spec in loop)


def _with_steps(spec: TensorSpec, steps: int) -> TensorSpec:
    return replace(spec, shape=tuple(steps if size == "K" else size for size in spec.shape))


def _with_rows(spec: TensorSpec, rows: str) -> TensorSpec:
    return replace(spec, shape=(rows, *spec.shape[1:]))


def _staged_spec(spec: TensorSpec) -> TensorSpec:
    return replace(_with_rows(spec, "S"), name=f"staged_{spec.name}")


def _loop_inputs() -> tuple[TensorSpec, ...]:
    return (
        TensorSpec("token", INT64, ("B",)),
        TensorSpec("forced", INT64, ("K", "B")),
        TensorSpec("uniform", FLOAT, ("K", "B")),
        TensorSpec("temperature", FLOAT, ("B",)),
    )


def _loop_outputs() -> tuple[TensorSpec, ...]:
    return (TensorSpec("tokens", INT64, ("K", "B")), TensorSpec("token_next", INT64, ("B",)))


def _state_specs(model: ModelShape, suffix: str = "") -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name + suffix, FLOAT, ("B", model.hidden)) for name in model.state_names)


def check_graph(
    data: bytes,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    metadata: dict[str, str],
    operators: Set[str] = OPERATORS,
) -> None:
    """Raise GraphError, which says what was found and what was expected, unless `data` is such a graph.

    Args:
        metadata: entries that the file must have; it may have more.
        operators: the operators that the file may have.
    """
    model = onnx.Model()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise GraphError("not an ONNX file") from None
    _check_versions(model)
    for graph in _nested_graphs(model.graph):
        _check_operators(graph, operators)
        _check_tensors_inside(graph)
        if is_bounded(model):
            _check_bound(graph)
    _check_specs("inputs", model.graph.input, inputs)
    _check_specs("outputs", model.graph.output, outputs)
    _check_metadata(model, metadata)


def _check_versions(model: onnx.Model) -> None:
    if not 1 <= model.ir_version <= MAX_IR:
        raise GraphError(f"ONNX IR version {model.ir_version}, at most {MAX_IR} is supported")
    for opset in model.opset_import:
        if opset.domain not in ("", "ai.onnx"):
            raise GraphError(f"operators of the domain {opset.domain!r}, only ONNX's own are allowed")
        if opset.version not in OPSETS:
            raise GraphError(f"opset {opset.version}, supported are {OPSETS.start} to {OPSETS.stop - 1}")
    if model.functions:
        raise GraphError(f"a local function ({model.functions[0].name!r}), none is allowed")
    if not model.opset_import:
        raise GraphError("no opset")
    if model.training_info:
        raise GraphError("a training graph, none is allowed")


def _nested_graphs(graph: onnx.Graph) -> Iterator[onnx.Graph]:
    """Yield the graph and all graphs inside its operators (the body of a Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nested_graphs(inner)


def _check_operators(graph: onnx.Graph, allowed: Set[str]) -> None:
    for node in graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise GraphError(f"operator {node.op_type!r} of the domain {node.domain!r}, only ONNX's own are allowed")
        if node.op_type not in allowed:
            raise GraphError(f"operator {node.op_type!r}, allowed are {', '.join(sorted(allowed))}")


def _check_tensors_inside(graph: onnx.Graph) -> None:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    constants = [tensor for a in attributes for tensor in (a.t, *a.tensors)]
    if graph.sparse_initializer or any(a.HasField("sparse_tensor") or a.sparse_tensors for a in attributes):
        raise GraphError("a sparse tensor, none is allowed")
    for tensor in (*graph.initializer, *constants):
        if tensor.data_location or tensor.external_data:
            raise GraphError(f"tensor {tensor.name!r} lies outside the file, external data is not allowed")


def _check_bound(graph: onnx.Graph) -> None:
    try:
        check_tensors(graph)
    except Exceeded as error:
        raise GraphError(str(error)) from None


def _check_metadata(model: onnx.Model, expected: dict[str, str]) -> None:
    """Refuse a file of another model, which may have the same tensors but not the same vocabulary."""
    found = {entry.key: entry.value for entry in model.metadata_props}
    for key, value in expected.items():
        if found.get(key) != value:
            raise GraphError(f"metadata {key}: found {found.get(key)}, expected {value}")


def _check_specs(kind: str, values: Iterable[onnx.Value], expected: tuple[TensorSpec, ...]) -> None:
    found = tuple(map(_spec_of, values))
    if found != expected:
        wrong = next((pair for pair in zip(found, expected, strict=False) if pair[0] != pair[1]), None)
        if wrong:
            raise GraphError(f"{kind}: found {wrong[0]}, expected {wrong[1]}")
        raise GraphError(f"{kind}: found {len(found)}, expected {len(expected)}")


def _spec_of(value: onnx.Value) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    return TensorSpec(value.name, tensor.elem_type, shape)
