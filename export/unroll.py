"""A graph that loops -> one that does the same number of steps each time, without a loop, for a device.

The body of the Scan is written down once for each step; weights are shared by all. In front of it stands what lets rows
join, leave and move: row b begins as row source[b] of the rows held, followed by the rows staged.

The files are for CUDA graphs, so no operator may need the host. Two would: `Shape`, and a `Concat` of inputs of several
sizes or of more than 32, for which onnxruntime copies a table to the device that is gone when the graph is replayed.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper

from bundle.graph_contract import TensorSpec

__all__ = ["unroll"]

MOST_CONCATENATED = 32
# Opset 20 has a new ReduceMax, for which onnxruntime got a CUDA kernel only in 2026; all else is the same in both.
OPSET = 19
COUNT = "held_rows"


def unroll(loop: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], steps: int) -> bytes:
    """The graph of `steps` steps that computes what `loop` does.

    Args:
        loop: a file of export/onnx_file.py with one Scan.
        inputs, outputs: of the new graph (`bundle.graphs.device_inputs`, `device_outputs`).
    """
    model = onnx.load_from_string(loop)
    graph = model.graph
    held = [spec.name for spec in inputs if spec.shape[0] == "R"]
    nodes = [*_chosen_rows(held), *_without_loop(graph, {name: _begin(name) for name in held}, steps)]
    graph.initializer.extend(_constants(steps))
    for part in ("node", "input", "output", "value_info"):  # the last has values whose names are gone
        graph.ClearField(part)
    graph.node.extend(nodes)
    graph.input.extend(_values(inputs))
    graph.output.extend(_values(outputs))
    model.opset_import[0].version = OPSET
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _begin(name: str) -> str:
    """Of an input of the rows held: its rows as the run begins with them."""
    return f"{name}_begin"


def _chosen_rows(held: Sequence[str]) -> Iterator[NodeProto]:
    """Row source[b] of the rows held, followed by the rows staged, of every tensor.

    Both are looked up, and one is taken. How many rows are held is counted, as a shape would be on the host.
    """
    yield _node("GreaterOrEqual", ("token", "token"), "held_all")
    yield _node("Cast", ("held_all",), "held_ones", to=TensorProto.INT64)
    yield _node("ReduceSum", ("held_ones", "first_axis"), COUNT, keepdims=1)
    yield _node("Less", ("source", COUNT), "is_held")
    yield _node("Unsqueeze", ("is_held", "second_axis"), "is_held_column")
    yield _node("Sub", (COUNT, "row_1"), "last_held")
    yield _node("Min", ("source", "last_held"), "held_row")
    yield _node("Sub", ("source", COUNT), "source_staged")
    yield _node("Max", ("source_staged", "row_0"), "staged_row")
    for name in held:
        yield _node("Gather", (name, "held_row"), f"{name}_held", axis=0)
        yield _node("Gather", (f"staged_{name}", "staged_row"), f"{name}_staged", axis=0)
        which = "is_held" if name == "token" else "is_held_column"
        yield _node("Where", (which, f"{name}_held", f"{name}_staged"), _begin(name))


def _constants(steps: int) -> Iterator[TensorProto]:
    for name, value in (("first_axis", [0]), ("second_axis", [1]), ("row_0", [0]), ("row_1", [1])):
        yield _constant(name, np.array(value))
    for step in range(steps):
        yield _constant(_number(step), np.array(step))


def _constant(name: str, value: NDArray[np.int64]) -> TensorProto:
    return onnx.numpy_helper.from_array(value, name)


def _number(step: int) -> str:
    return f"step_{step}"


def _without_loop(graph: GraphProto, names: dict[str, str], steps: int) -> Iterator[NodeProto]:
    """The graph's operators, `steps` times the body of its Scan in place of it.

    Args:
        names: of values that have another name now.
    """
    for node in graph.node:
        if node.op_type == "Scan":
            yield from _unrolled(_renamed(node, names), steps)
        else:
            yield _renamed(node, names)


def _renamed(node: NodeProto, names: dict[str, str], suffix: str = "") -> NodeProto:
    """A copy that reads and writes other names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name += suffix
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _unrolled(scan: NodeProto, steps: int) -> Iterator[NodeProto]:
    body = _attribute(scan, "body")
    states = len(scan.input) - _attribute(scan, "num_scan_inputs")
    carried, given = scan.input[:states], scan.input[states:]
    made, results = _results(body)
    collected = []
    for step in range(steps):
        suffix = f"_{_number(step)}"
        slices = [f"{name}{suffix}" for name in given]
        for name, part in zip(given, slices, strict=True):
            yield _node("Gather", (name, _number(step)), part, axis=0)
        names = {name: f"{name}{suffix}" for name in made}
        names |= dict(zip((value.name for value in body.input), (*carried, *slices), strict=True))
        if step == steps - 1:  # the state after it is the loop's
            names |= {inner: outer for inner, outer in zip(results, scan.output[:states], strict=False) if outer}
        yield from (_renamed(node, names, suffix) for node in body.node)
        carried = [names[name] for name in results[:states]]
        collected.append([names[name] for name in results[states:]])
    for values, output in zip(zip(*collected, strict=True), scan.output[states:], strict=True):
        yield from _stacked(values, output)


def _results(body: GraphProto) -> tuple[list[str], list[str]]:
    """The values that the operators make, and those of them that are the body's results."""
    made, results = [name for node in body.node for name in node.output], [value.name for value in body.output]
    assert len(set(results)) == len(results)
    assert set(results) <= set(made)
    assert not body.initializer, "weights lie in the main graph"
    return made, results


def _stacked(values: Sequence[str], output: str) -> Iterator[NodeProto]:
    """Of each step's value [B, ...] the output [K, B, ...]."""
    rows = [f"{value}_row" for value in values]
    for value, row in zip(values, rows, strict=True):
        yield _node("Unsqueeze", (value, "first_axis"), row)
    yield from _concatenated(rows, output)


def _concatenated(values: Sequence[str], output: str) -> Iterator[NodeProto]:
    """As a tree, so that no operator has more inputs than a CUDA kernel takes without a table."""
    if len(values) > MOST_CONCATENATED:
        parts = [values[first : first + MOST_CONCATENATED] for first in range(0, len(values), MOST_CONCATENATED)]
        for number, part in enumerate(parts):
            yield from _concatenated(part, f"{output}_part_{number}")
        values = [f"{output}_part_{number}" for number in range(len(parts))]
    yield _node("Concat", values, output, axis=0)


def _attribute(node: NodeProto, name: str) -> Any:
    (found,) = (attribute for attribute in node.attribute if attribute.name == name)
    return helper.get_attribute_value(found)


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes)


def _values(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(spec.name, spec.type, spec.shape) for spec in specs]
