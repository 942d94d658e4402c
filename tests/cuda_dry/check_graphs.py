"""Graphs as onnxruntime runs them, after it has fused operators: all on CUDA, and nothing that needs the host."""

import sys
import tempfile
from collections import Counter
from itertools import product
from pathlib import Path

import onnxruntime

from bundle import onnx_header_pb2 as onnx
from bundle.graph_contract import DEVICE_STEPS
from bundle.manifest import Precision
from bundle.read import Bundle, decode_file, full_file, read_bundle
from server.runtime.device_runner import check_placement, require_cuda
from server.runtime.host_runner import session_options
from tests.cuda_dry.fake_device import Check

# An operator with more parts reads a table of them, which is copied from the host.
MOST_PARTS = 32


def optimized(graph: bytes) -> onnx.Graph:
    """Return what onnxruntime makes of a graph. Raises CannotRun if a part of it is not on CUDA."""
    with tempfile.TemporaryDirectory() as folder:
        options = session_options(1)
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        providers = [("CUDAExecutionProvider", {"enable_cuda_graph": 1}), "CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
        check_placement(session, "cuda")
        return onnx.Model.FromString(Path(folder, "optimized.onnx").read_bytes()).graph


def check_bundle(check: Check, bundle: Bundle, precision: Precision) -> None:
    copies, large = Counter[str](), Counter[str]()
    for file, steps in product((decode_file, full_file), DEVICE_STEPS):
        for node in optimized(bundle.files[file(precision, steps)]).node:
            copies[node.op_type] += node.op_type.startswith("Memcpy")
            parts = max(len(node.input), len(node.output))
            large[node.op_type] += node.op_type in ("Split", "Concat") and parts > MOST_PARTS
    name = f"{bundle.manifest.name} {precision}"
    check.that(not +copies, f"{name}: all of the optimised graphs is on CUDA", dict(+copies))
    check.that(not +large, f"{name}: no operator of them has more than {MOST_PARTS} parts", dict(+large))


def main(bundles: Path) -> int:
    check = Check()
    require_cuda()
    for path in sorted(bundles.iterdir()):
        bundle = read_bundle(path)
        for precision in ("fp16-cuda", "fp32-cuda"):
            if precision in bundle.manifest.precisions:
                check_bundle(check, bundle, precision)
    return check.exit_code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
