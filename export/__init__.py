"""From PyTorch to ONNX."""

import os

# Official builds of onnxruntime report their use over the network, from the moment that it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
