"""The clients over HTTP that people copy: each prints the text that gRPC gives for the same request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess

FOLDER = Path(__file__).parents[2] / "examples" / "http"
PROMPT = "To be, "


@pytest.mark.parametrize("name", ["stream_openai.py", "stream_langchain.py", "completions.sh"])
def test_it_prints_the_text_that_grpc_gives(server: ServerProcess, name: str) -> None:
    with grpc.insecure_channel(server.address) as channel:
        request = pb.GenerateRequest(prompt=PROMPT, max_chars=200, seed=1)
        wanted = "".join(answer.text for answer in pb_grpc.TextGenerationStub(channel).Generate(request))
    program = [sys.executable] if name.endswith(".py") else ["sh"]
    command = [*program, str(FOLDER / name), f"http://{server.web}", PROMPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ, check=False)
    assert done.returncode == 0, done.stderr
    text = done.stdout.removesuffix("\n")
    if name == "completions.sh":
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert lines.pop() == "[DONE]"
        text = "".join(json.loads(line)["choices"][0]["text"] for line in lines)
    assert text == wanted
