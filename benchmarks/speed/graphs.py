"""The decode graph in this process, and its matmuls alone: the bound that this runtime sets."""

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
from onnx import GraphProto, TensorProto, helper
from onnxruntime import InferenceSession

from bundle.manifest import Manifest
from server.engine.state_store import idle_input
from server.runtime.host_runner import Runner
from server.runtime.host_states import HostStates

__all__ = ["matmuls_of", "seconds_of", "time_graph", "time_matmuls"]

STEPS = 16
TEMPERATURE = 0.8
# Every row has these limits where the full graph is measured.
TOP_K, TOP_P, MIN_P = 40, 0.9, 0.01


def seconds_of(call: Callable[[], object], seconds: float) -> float:
    """Return the mean seconds of a call that is repeated for `seconds`, after two calls that are not counted."""
    call()
    call()
    calls, begin = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - begin) < seconds:
        call()
        calls += 1
    return elapsed / calls


def time_graph(runner: Runner, manifest: Manifest, rows: int, seconds: float, *, full: bool) -> float:
    """Return the seconds of one step, in runs of 16 with two alternating halves of the state."""
    vocab = len(manifest.symbols)
    states = HostStates(runner, manifest, rows, rows, np.empty(STEPS * rows * vocab, np.float32))
    inputs = idle_input(rows, rows, STEPS, vocab)
    inputs.temperature[:], inputs.limits.top_k[:] = TEMPERATURE, min(TOP_K, vocab)
    inputs.limits.top_p[:], inputs.limits.min_p[:] = TOP_P, MIN_P
    return seconds_of(lambda: states.run(inputs, full=full), seconds) / STEPS


def matmuls_of(decode: bytes) -> InferenceSession:
    """Return a graph of nothing but the matmuls that one step of a decode graph does with its weights."""
    model = onnx.load_from_string(decode)
    weights = {tensor.name: tensor for graph in (model.graph, _body(model.graph)) for tensor in graph.initializer}
    used = [node for node in _body(model.graph).node if node.op_type in ("MatMul", "MatMulInteger")]
    used = [node for node in used if node.input[1] != "sampler.triangle"]
    integer = used[0].op_type == "MatMulInteger"
    inputs, nodes, outputs = {}, [], []
    for number, node in enumerate(used):
        size, columns = weights[node.input[1]].dims
        x = f"x{size}"
        inputs[x] = helper.make_tensor_value_info(x, TensorProto.UINT8 if integer else TensorProto.FLOAT, ["B", size])
        nodes.append(helper.make_node(node.op_type, [x, *node.input[1:]], [f"y{number}"]))
        kind = TensorProto.INT32 if integer else TensorProto.FLOAT
        outputs.append(helper.make_tensor_value_info(f"y{number}", kind, ["B", columns]))
    tensors = [weights[name] for name in dict.fromkeys(name for node in used for name in node.input[1:])]
    graph = helper.make_graph(nodes, "matmuls", list(inputs.values()), outputs, tensors)
    alone = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level, options.enable_mem_pattern = 1, 3, False
    return InferenceSession(alone.SerializeToString(), options, providers=["CPUExecutionProvider"])


def time_matmuls(session: InferenceSession, rows: int, seconds: float) -> float:
    """Return the seconds of one step's matmuls."""
    binding = session.io_binding()
    rng = np.random.default_rng(0)
    for value in session.get_inputs():
        x = rng.integers(1, 256, (rows, value.shape[1])).astype(np.uint8)
        binding.bind_cpu_input(value.name, x if value.type == "tensor(uint8)" else x.astype(np.float32) / 256)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return seconds_of(lambda: session.run_with_iobinding(binding), seconds)


def _body(graph: GraphProto) -> GraphProto:
    (loop,) = (node for node in graph.node if node.op_type == "Scan")
    (body,) = (attribute.g for attribute in loop.attribute if attribute.name == "body")
    return body
