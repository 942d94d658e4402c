"""The server."""

import os

# Official builds of onnxruntime report their use over the network, from the moment that it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# gRPC writes to stderr past our log, and waits there for a reader that is too slow: for handshakes of strangers, too.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
