"""No operator of a graph for a device may be one that onnxruntime leaves to the host: a CUDA graph has no place for it.

There is no device here. Which CUDA kernels there are is read from onnxruntime's docs/OperatorKernels.md (revision
001d12d2, section CUDAExecutionProvider), and which inputs they want on the host from their sources. Not checked is
whether an installed onnxruntime has them: a server asks that when it loads the graphs.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product

import onnx
import pytest
from onnx import TensorProto, helper, shape_inference

from bundle.graph_contract import DEVICE_OPERATORS, DEVICE_STEPS
from bundle.manifest import Manifest
from bundle.read import decode_file, full_file
from tests.conftest import OTHER_CELLS, Files

FLOAT, HALF, INT64, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.BOOL
ANY, NUMBERS, FLOATS = {FLOAT, HALF, INT64, BOOL}, {FLOAT, HALF, INT64}, {FLOAT, HALF}

# For each operator: the versions of its schema that a kernel is for (a kernel without an end is for its first version
# only), the element types of its first input (for Where its second) among those that the graphs have, and the inputs
# that a kernel reads on the host, where constants may lie.
KERNELS: dict[str, tuple[range, set[int], tuple[int, ...]]] = {
    "Add": (range(14, 15), NUMBERS, ()),
    "Cast": (range(19, 21), ANY, ()),
    "Clip": (range(13, 14), NUMBERS, (1, 2)),
    "Concat": (range(13, 14), ANY, ()),
    "CumSum": (range(14, 15), NUMBERS, (1,)),
    "Div": (range(14, 15), NUMBERS, ()),
    "Exp": (range(13, 14), FLOATS, ()),
    "Gather": (range(13, 14), ANY, ()),
    "GatherElements": (range(13, 14), ANY, ()),
    "Greater": (range(13, 14), NUMBERS, ()),
    "GreaterOrEqual": (range(16, 17), NUMBERS, ()),
    "Identity": (range(19, 20), ANY, ()),
    "LayerNormalization": (range(17, 18), FLOATS, ()),
    "LeakyRelu": (range(16, 17), FLOATS, ()),
    "Less": (range(13, 14), NUMBERS, ()),
    "LessOrEqual": (range(16, 17), NUMBERS, ()),
    "LogSoftmax": (range(13, 14), FLOATS, ()),
    "MatMul": (range(13, 14), FLOATS, ()),
    "Max": (range(13, 14), NUMBERS, ()),
    "Min": (range(13, 14), NUMBERS, ()),
    "Mul": (range(14, 15), NUMBERS, ()),
    "Neg": (range(13, 14), NUMBERS, ()),
    "ReduceMax": (range(18, 19), NUMBERS, (1,)),
    "ReduceSum": (range(13, 14), NUMBERS, (1,)),
    "Relu": (range(14, 15), FLOATS, ()),
    "Sigmoid": (range(13, 14), FLOATS, ()),
    "Slice": (range(13, 14), ANY, (1, 2, 3, 4)),
    "Softmax": (range(13, 14), FLOATS, ()),
    "Split": (range(18, 19), ANY, (1,)),
    "Sub": (range(14, 15), NUMBERS, ()),
    "Tanh": (range(13, 14), FLOATS, ()),
    "TopK": (range(11, 12), NUMBERS, (1,)),
    "Unsqueeze": (range(13, 14), ANY, (1,)),
    "Where": (range(16, 17), NUMBERS, ()),
}
# A Concat or Split of more parts, or of parts of several sizes, copies a table from the host each time.
MAX_PARTS = 32


@pytest.fixture(scope="module")
def graphs(device_files: Files, cell_files: Callable[[str], Files]) -> list[onnx.ModelProto]:
    """The graphs of every cell in both precisions, one of them with a vocabulary too large for the triangle of ones."""
    bundles = device_files, *map(cell_files, OTHER_CELLS)
    return [onnx.load_from_string(data) for _, files in bundles for name, data in files.items() if "cuda" in name]


def nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, dict[str, onnx.TypeProto.Tensor]]]:
    """Yield each operator with the types of all values."""
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.output, *graph.value_info)}
    for tensor in graph.initializer:
        types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims).tensor_type
    for node in graph.node:
        yield node, types


def test_every_allowed_operator_has_a_kernel() -> None:
    assert set(KERNELS) == DEVICE_OPERATORS


def test_every_operator_has_a_kernel_for_its_version_and_types(graphs: list[onnx.ModelProto]) -> None:
    seen = set()
    for model in graphs:
        for node, types in nodes(model):
            versions, elements, _ = KERNELS[node.op_type]
            assert onnx.defs.get_schema(node.op_type, model.opset_import[0].version).since_version in versions, node
            assert types[node.input[node.op_type == "Where"]].elem_type in elements, node
            seen.add(node.op_type)
    assert {"CumSum", "TopK", "LogSoftmax", "MatMul"} <= seen


def test_what_a_kernel_wants_on_the_host_is_constant(graphs: list[onnx.ModelProto]) -> None:
    for model in graphs:
        constants = {tensor.name for tensor in model.graph.initializer}
        for node in model.graph.node:
            wanted = [node.input[place] for place in KERNELS[node.op_type][2] if place < len(node.input)]
            assert {name for name in wanted if name} <= constants, node


def test_nothing_is_concatenated_that_takes_a_table(graphs: list[onnx.ModelProto]) -> None:
    for model in graphs:
        for node, types in nodes(model):
            if node.op_type != "Concat":
                continue
            (axis,) = (attribute.i for attribute in node.attribute)
            sizes = {types[name].shape.dim[axis].dim_value for name in node.input}
            assert len(node.input) <= MAX_PARTS
            assert len(sizes) == 1, node
            assert sizes != {0}, f"a size that varies: {node}"


def test_no_tensor_has_more_gathers_than_one_operator_may_split(graphs: list[onnx.ModelProto]) -> None:
    """onnxruntime makes one Split of a tensor's Gathers (GatherSliceToSplitFusion); make cuda-dry sees it do so."""
    for model in graphs:
        constants = {tensor.name for tensor in model.graph.initializer}
        takers = [node for node in model.graph.node if node.op_type in ("Gather", "Slice")]
        assert max(Counter(node.input[0] for node in takers if node.input[1] in constants).values()) <= MAX_PARTS
        for node in model.graph.node:
            if node.op_type == "Split":
                assert {attribute.name for attribute in node.attribute} == {"axis", "num_outputs"}, "equal parts"
                assert len(node.output) <= MAX_PARTS


def test_a_step_has_few_operators(graphs: list[onnx.ModelProto], device_files: Files) -> None:
    """Each is a launch, and at one row a step lasts as long as its launches do."""
    _, files = device_files
    for precision, most in (("fp16-cuda", 48), ("fp32-cuda", 43)):
        short, long = (len(onnx.load_from_string(files[decode_file(precision, steps)]).graph.node) for steps in (4, 16))
        # A step's slices are one Split of all, and its outcome needs a row of its own.
        assert (long - short) / 12 <= most


def test_every_number_of_steps_is_there(device_files: tuple[Manifest, dict[str, bytes]]) -> None:
    _, files = device_files
    for file, precision, steps in product((decode_file, full_file), ("fp32-cuda", "fp16-cuda"), DEVICE_STEPS):
        model = onnx.load_from_string(files[file(precision, steps)])
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == 10
