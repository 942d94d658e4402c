"""What nobody thought of reaches the caller as INTERNAL with a number, and the log with its cause."""

import re
import sys
from pathlib import Path

import grpc
import pytest

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from tests.conftest import ready, start_server, stop

FAULTY = """
import sys
from server.service import generation as service
from server.__main__ import main

def broken(*arguments):
    raise KeyError("a secret of the server")

service.generation_request = service.scoring_request = broken
sys.exit(main())
"""


@pytest.mark.parametrize("method", ["Generate", "Score"])
def test_an_unexpected_error_keeps_its_text_to_itself(bundles: Path, tmp_path: Path, method: str) -> None:
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    process = start_server(bundles, "--precision", "fp32", command=(sys.executable, str(script)))
    request = pb.GenerateRequest() if method == "Generate" else pb.ScoreRequest(text="a")
    try:
        with grpc.insecure_channel(ready(process).address) as channel, pytest.raises(grpc.RpcError) as caught:
            list(getattr(rpc.TextGenerationStub(channel), method)(request))
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        found = re.fullmatch(r"internal error (\w{8}); the server's log has the .*", caught.value.details())
        assert found
        process.wait_for(f"internal error {found[1]}")
        process.wait_for("KeyError: 'a secret of the server'")
        process.wait_for("Traceback")
    finally:
        stop(process)
