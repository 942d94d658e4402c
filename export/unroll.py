"""Unroll a graph that loops into one with a fixed number of steps, for a device.

The body of the Scan is repeated for each step; all steps share the weights. The operators in front of it let rows join,
leave and move: row b starts as row source[b] of all rows, first the held ones, then the staged ones.

The files are for CUDA graphs, so no operator may need the host. Some would: `Shape`, and a `Concat` or `Split` of
several sizes or of more than 32, for which onnxruntime copies a table to the device in every run. It makes one `Split`
of all `Gather`s of a tensor (GatherSliceToSplitFusion), so no tensor has more than 32 of them.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

from bundle.graph_contract import TensorSpec

__all__ = ["unroll"]

MAX_PARTS = 32
# Opset 20 has a new ReduceMax, for which onnxruntime got a CUDA kernel only in 2026; the rest is the same in both.
OPSET = 19
COUNT = "held_rows"


def unroll(loop: bytes, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], steps: int) -> bytes:
    """Return a graph of `steps` steps that computes what `loop` does.

    Args:
        loop: a file of export/onnx_file.py with one Scan.
        inputs, outputs: of the new graph (`device_inputs` and `device_outputs` in bundle/graph_contract.py).
    """
    model = onnx.load_from_string(loop)
    graph = model.graph
    held = [spec.name for spec in inputs if spec.shape[0] == "R"]
    nodes = [*_choose_rows(held), *_replace_scan(graph, {name: _start_name(name) for name in held}, steps)]
    graph.initializer.extend(_constants(steps))
    for part in ("node", "input", "output", "value_info"):  # the last one describes values whose names are gone
        graph.ClearField(part)
    graph.node.extend(nodes)
    graph.input.extend(_values(inputs))
    graph.output.extend(_values(outputs))
    model.opset_import[0].version = OPSET
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _start_name(name: str) -> str:
    """Return the name of an input after its rows have been chosen for the run."""
    return f"{name}_begin"


def _choose_rows(held: Sequence[str]) -> Iterator[NodeProto]:
    """Take row source[b] of every tensor: of the held rows, followed by the staged rows.

    Both are looked up, and one is selected. The held rows are counted, because a shape would lie on the host.
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
        yield _node("Where", (which, f"{name}_held", f"{name}_staged"), _start_name(name))


def _constants(steps: int) -> Iterator[TensorProto]:
    for name, value in (("first_axis", [0]), ("second_axis", [1]), ("row_0", [0]), ("row_1", [1])):
        yield onnx.numpy_helper.from_array(np.array(value), name)
    for step in range(min(steps, MAX_PARTS)):
        yield onnx.numpy_helper.from_array(np.array(step), _step_name(step))
    for edge in (*range(0, steps, MAX_PARTS), steps) if steps > MAX_PARTS else ():
        yield onnx.numpy_helper.from_array(np.array([edge]), _edge_name(edge))


def _step_name(step: int) -> str:
    return f"step_{step}"


def _edge_name(step: int) -> str:
    return f"edge_{step}"


def _replace_scan(graph: GraphProto, names: dict[str, str], steps: int) -> Iterator[NodeProto]:
    """Return the graph's operators, with the body of its Scan repeated `steps` times.

    Args:
        names: new names of values.
    """
    for node in graph.node:
        if node.op_type == "Scan":
            yield from _repeat_body(_rename_values(node, names), steps)
        else:
            yield _rename_values(node, names)


def _rename_values(node: NodeProto, names: dict[str, str], suffix: str = "") -> NodeProto:
    """Return a copy that reads and writes values of other names."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name += suffix
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _repeat_body(scan: NodeProto, steps: int) -> Iterator[NodeProto]:
    body = _attribute(scan, "body")
    states = len(scan.input) - _attribute(scan, "num_scan_inputs")
    carried, scanned = scan.input[:states], scan.input[states:]
    values, results = _body_results(body)
    collected = []
    for name in scanned:
        yield from _cut(name, steps)
    for step in range(steps):
        suffix = f"_{_step_name(step)}"
        slices = [f"{name}{suffix}" for name in scanned]
        for name, part in zip(scanned, slices, strict=True):
            yield _node("Gather", (_piece_name(name, step, steps), _step_name(step % MAX_PARTS)), part, axis=0)
        names = {name: f"{name}{suffix}" for name in values}
        names |= dict(zip((value.name for value in body.input), (*carried, *slices), strict=True))
        if step == steps - 1:  # the state after it is the Scan's output
            names |= {inner: outer for inner, outer in zip(results, scan.output[:states], strict=False) if outer}
        yield from (_rename_values(node, names, suffix) for node in body.node)
        carried = [names[name] for name in results[:states]]
        collected.append([names[name] for name in results[states:]])
    for parts, output in zip(zip(*collected, strict=True), scan.output[states:], strict=True):
        yield from _stack(parts, output)


def _cut(name: str, steps: int) -> Iterator[NodeProto]:
    """Cut a tensor [K, ...] into pieces of as many steps as one operator may split."""
    for begin in range(0, steps, MAX_PARTS) if steps > MAX_PARTS else ():
        edges = _edge_name(begin), _edge_name(min(begin + MAX_PARTS, steps))
        yield _node("Slice", (name, *edges, "first_axis"), _piece_name(name, begin, steps))


def _piece_name(name: str, step: int, steps: int) -> str:
    """Return the name of the piece that has a step."""
    return f"{name}_from_{step - step % MAX_PARTS}" if steps > MAX_PARTS else name


def _body_results(body: GraphProto) -> tuple[list[str], list[str]]:
    """Return all values that the operators make, and those among them that are the body's results."""
    values, results = [name for node in body.node for name in node.output], [value.name for value in body.output]
    assert len(set(results)) == len(results)
    assert set(results) <= set(values)
    assert not body.initializer, "weights lie in the main graph"
    return values, results


def _stack(values: Sequence[str], output: str) -> Iterator[NodeProto]:
    """Stack each step's value [B, ...] to the output [K, B, ...]."""
    rows = [f"{value}_row" for value in values]
    for value, row in zip(values, rows, strict=True):
        yield _node("Unsqueeze", (value, "first_axis"), row)
    yield from _concatenate(rows, output)


def _concatenate(values: Sequence[str], output: str) -> Iterator[NodeProto]:
    """Concatenate as a tree, so that no operator has more inputs than a CUDA kernel takes without a table."""
    if len(values) > MAX_PARTS:
        parts = [values[first : first + MAX_PARTS] for first in range(0, len(values), MAX_PARTS)]
        for number, part in enumerate(parts):
            yield from _concatenate(part, f"{output}_part_{number}")
        values = [f"{output}_part_{number}" for number in range(len(parts))]
    yield _node("Concat", values, output, axis=0)


def _attribute(node: NodeProto, name: str) -> Any:
    (found,) = (attribute for attribute in node.attribute if attribute.name == name)
    return helper.get_attribute_value(found)


def _node(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], name=f"node_{output}", **attributes)


def _values(specs: Sequence[TensorSpec]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(spec.name, spec.type, spec.shape) for spec in specs]
