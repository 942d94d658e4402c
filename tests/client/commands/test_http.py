"""`charstream stream --http`: what it prints is what it prints over gRPC, whatever is asked for and whatever breaks."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.errors import InvalidRequest, WrongReplica
from client.http.http_client import HttpClient
from client.results import Replica
from tests.conftest import Charstream, ServerProcess, ready, start_server, stop

FLAGS: list[tuple[str, ...]] = [
    (),
    ("--json", "--logprobs", "2"),
    ("--n", "3"),
    ("--stop", "e", "--include-stop", "--temperature", "0.5", "--top-k", "9", "--bias", "a=2", "--no-echo"),
    ("--continuation", "2", "--checkpoint-chars", "64", "--model", "tiny@1", "--time-limit", "100"),
]


@pytest.mark.parametrize("flags", FLAGS, ids=["plain", "numbers", "several", "sampling", "others"])
def test_it_prints_what_it_prints_over_grpc(
    charstream: Charstream, server: ServerProcess, flags: tuple[str, ...]
) -> None:
    asked = ("stream", "To be, ", "--seed", "5", "--max-chars", "300", *flags)
    grpc, http = charstream(*asked, "--host", server.address), charstream(*asked, "--http", "--host", server.web)
    assert (grpc.returncode, http.returncode) == (0, 0), http.stderr
    if "--json" not in flags:
        assert http.stdout == grpc.stdout
        return
    ours, theirs = ([json.loads(line) for line in done.stdout.splitlines()] for done in (http, grpc))
    for name in ("text", "logprobs", "alternatives"):
        joined = [[value for line in lines for value in line.get(name, ())] for lines in (ours, theirs)]
        assert joined[0] == joined[1], name
    assert ours[-1]["finish"]["seed"] == theirs[-1]["finish"]["seed"]


def test_a_token_goes_on_through_the_other_door(charstream: Charstream, server: ServerProcess, tmp_path: Path) -> None:
    http, grpc, token = ("--http", "--host", server.web), ("--host", server.address), tmp_path / "token"
    asked = ("stream", "Oh", "--seed", "3", "--no-echo", "--max-chars")
    whole = charstream(*asked, 200, *grpc).stdout.removesuffix("\n")
    first = charstream(*asked, 100, "--token-out", token, *http).stdout.removesuffix("\n")
    rest = charstream("stream", "--max-chars", 100, "--token-in", token, *grpc).stdout.removesuffix("\n")
    assert first + rest == whole


def test_a_text_goes_on_at_the_next_server(bundles: Path, server: ServerProcess) -> None:
    lost = ready(start_server(bundles, "--precision", "fp32", "--http-port", "0"))
    try:
        with HttpClient([lost.web, server.web]) as client, HttpClient(server.web) as other:
            for _ in range(2):  # each begins at another one
                stream = client.stream("To be", seed=4, max_chars=20_000)
                parts = iter(stream)
                next(parts)
                lost.signal(signal.SIGKILL)
                assert "".join(parts)
                assert stream.text == other.stream("To be", seed=4, max_chars=20_000).read()
            assert [model.name for model in client.models()] == ["tiny"]
            assert other.model("tiny").hidden == 64
    finally:
        stop(lost)


def test_errors_are_those_of_grpc(server: ServerProcess) -> None:
    with HttpClient(server.web) as client:
        with pytest.raises(InvalidRequest, match="'é'") as caught:
            client.stream("café").read()
        assert caught.value.field == "prompt"
        with pytest.raises(WrongReplica, match="numerics"):
            client.stream("a", replica=Replica(numerics="other")).read()


@pytest.mark.parametrize("place", ["127.0.0.1:9", "the port of gRPC"])
def test_a_wrong_port_is_one_line(charstream: Charstream, server: ServerProcess, place: str) -> None:
    host = server.address if place.startswith("the") else place
    done = charstream("stream", "a", "--http", "--host", host)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nobody listens there" in done.stderr or "the connection broke" in done.stderr


def test_interrupting_it_frees_the_row(server: ServerProcess) -> None:
    command = [
        sys.executable,
        "-m",
        "charstream",
        "stream",
        "a",
        "--http",
        "--host",
        server.web,
        "--max-chars",
        "90000",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        process.stdout.read(5)
        process.send_signal(signal.SIGINT)
        process.wait(30)
    with HttpClient(server.web) as client:
        for _ in range(100):
            if not client.model("tiny").texts:
                return
    raise AssertionError("a row is still taken")
