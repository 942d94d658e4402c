"""The clients with tritonclient that people copy: they print what the server has for the request."""

import subprocess
import sys
from pathlib import Path

import grpc

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess

FOLDER = Path(__file__).parents[2] / "examples" / "triton"
RUN_SECONDS = 60


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS)


def reference(server: ServerProcess, request: pb.GenerateRequest) -> str:
    with grpc.insecure_channel(server.address) as channel:
        return "".join(message.text for message in pb_grpc.TextGenerationStub(channel).Generate(request))


def test_a_text_is_printed_as_it_comes(server: ServerProcess) -> None:
    done = run("stream.py", "To be", "--host", server.address, "--model", "tiny", "--seed", "7", "--max-chars", "900")
    assert done.returncode == 0, done.stderr
    assert done.stdout == reference(server, pb.GenerateRequest(prompt="To be", seed=7, max_chars=900))
    assert "length after 900 characters, seed 7" in done.stderr


def test_steps_of_a_sequence_write_the_greedy_text(server: ServerProcess) -> None:
    done = run("sequence.py", "To be", "--host", server.address, "--model", "tiny", "--chars", "40")
    assert done.returncode == 0, done.stderr
    greedy = pb.GenerateRequest(prompt="To be", max_chars=40, sampling=pb.Sampling(temperature=0))
    assert done.stdout == reference(server, greedy) + "\n"


def test_what_fails_is_one_line(server: ServerProcess) -> None:
    done = run("stream.py", "é", "--host", server.address, "--model", "tiny")
    assert done.returncode == 1
    assert "'é'" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = run("sequence.py", "é", "--host", server.address, "--model", "tiny")
    assert (done.returncode, done.stderr) == (1, "sequence: the model does not know 'é'\n")
