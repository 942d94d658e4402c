"""Replicas behind a real Envoy as deploy/envoy has it: TLS to callers, mutual TLS to replicas, no character lost."""

import http.client
import itertools
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from benchmarks.support.envoy import CONFIGURATION, EnvoyProcess, binary, local_configuration
from client import Client, Overloaded, TextStream
from client import Replica as Wanted
from protos import charstream_pb2 as pb
from server.access.authentication import token_line
from tests.conftest import ServerProcess, ready, start_server, stop

pytestmark = pytest.mark.skipif(binary() is None, reason="needs Envoy: `make envoy` fetches it")

TOKEN = "a-token-of-alice"
PROMPT = "ROMEO:"
OPTIONS: dict[str, Any] = {"max_chars": 20_000, "max_chunk_chars": 20}


@dataclass
class Front:
    """An Envoy, the replicas behind it, and the authority of all."""

    envoy: EnvoyProcess
    replicas: list[ServerProcess]
    authority: bytes

    def client(self) -> Client:
        credentials = grpc.ssl_channel_credentials(self.authority)
        return Client(self.envoy.address, credentials=credentials, token=TOKEN, tls_name="charstream")

    def find(self, call: str) -> dict[str, Any]:
        """Return the line of a call in the log of its replica."""
        while True:
            for line in "".join(replica.log for replica in self.replicas).splitlines():
                if f'"id": "{call}"' in line:
                    found: dict[str, Any] = json.loads(line)
                    return found
            time.sleep(0.05)


def write_certificates(folder: Path) -> bytes:
    """Write what the configuration names, and what the replicas need; return the authority's certificate."""
    authority, tls = trustme.CA(), folder / "tls"
    tls.mkdir()
    for name in ("front", "envoy", "replica"):
        issued = authority.issue_cert("charstream", common_name=name)
        issued.private_key_pem.write_to_path(tls / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tls / f"{name}.crt")
    authority.cert_pem.write_to_path(tls / "ca.crt")
    (folder / "tokens").write_text(token_line("alice", TOKEN))
    (folder / "keys").write_text("k" * 64)
    return authority.cert_pem.bytes()


@pytest.fixture(scope="module")
def front(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("envoy")
    authority = write_certificates(folder)
    tls = ("--tls-cert", f"{folder}/tls/replica.crt", "--tls-key", f"{folder}/tls/replica.key")
    access = ("--tls-client-ca", f"{folder}/tls/ca.crt", "--tokens", f"{folder}/tokens", "--identity-streams", "2")
    flags = (*tls, *access, "--resume-keys", f"{folder}/keys", "--log-format", "json", "--grace", "20")
    with ExitStack() as stack:
        replicas = []
        for precision in ("fp32", "fp32", "int8"):
            replicas.append(start_server(bundles, "--precision", precision, "--drain-delay", "3", *flags))
            stack.callback(stop, replicas[-1])
        addresses = [ready(replica).address for replica in replicas]
        envoy = stack.enter_context(EnvoyProcess(local_configuration(addresses, tls=True), folder))
        envoy.wait_for_healthy(len(replicas))
        yield Front(envoy, replicas, authority)


@pytest.fixture(scope="module")
def texts(server: ServerProcess) -> dict[int, str]:
    """What one server gives without anything between, in float32 as two of the replicas."""
    with Client(server.address) as client:
        return {seed: client.stream(PROMPT, **OPTIONS, seed=seed).read() for seed in range(3)}


def test_envoy_takes_the_file_as_it_is(tmp_path: Path) -> None:
    write_certificates(tmp_path)
    command = [str(binary()), "--mode", "validate", "-c", str(CONFIGURATION)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "eprecated" not in done.stderr


def test_texts_are_the_same_and_each_call_is_in_both_logs(front: Front, texts: dict[int, str]) -> None:
    """One replica computes in 8 bits, and refuses texts that belong to float32: Envoy asks another one."""
    with front.client() as client:
        for seed, text in texts.items():
            stream = client.stream(PROMPT, **OPTIONS, seed=seed, replica=Wanted(precision="fp32"))
            assert (stream.read(), stream.resumes) == (text, 0)
    ended = front.envoy.access_log(len(texts))
    assert [line["status"] for line in ended] == ["OK"] * len(texts)
    for line in ended:
        logged = front.find(line["call"])
        assert (logged["request"], logged["method"], logged["identity"]) == (line["request"], "Generate", "alice")


def hold(held: ExitStack, stream: TextStream) -> None:
    """Read one chunk of a text, and no more until the end of `held`."""
    chunks = iter(held.enter_context(stream))
    next(chunks)
    held.callback(lambda: chunks)  # a loop that is left cancels its call


def hold_many(held: ExitStack, client: Client, count: int) -> None:
    for _ in range(count):
        hold(held, client.stream(PROMPT, max_chars=100_000, max_chunk_chars=1))


def test_a_refusal_reaches_the_caller_with_the_time_to_wait_and_is_asked_for_nowhere_else(front: Front) -> None:
    before = front.envoy.statistics("upstream_rq_retry$")
    with ExitStack() as held, front.client() as client, pytest.raises(Overloaded) as caught:
        hold_many(held, client, 2 * len(front.replicas) + 1)  # --identity-streams at each, and one
    assert caught.value.retry_after
    assert front.envoy.statistics("upstream_rq_retry$") == before


def test_a_browser_streams_over_grpc_web(front: Front, texts: dict[int, str]) -> None:
    context = ssl.create_default_context(cadata=front.authority.decode())
    context.check_hostname = False
    host, _, port = front.envoy.address.rpartition(":")
    request = pb.GenerateRequest(prompt=PROMPT, max_chars=50, seed=1, replica=pb.Replica(precision="fp32"))
    body = request.SerializeToString()
    origin = "https://pages.example.org"
    headers = {"content-type": "application/grpc-web+proto", "authorization": f"Bearer {TOKEN}", "origin": origin}
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
    connection.request(
        "POST", "/charstream.v1.TextGeneration/Generate", b"\0" + len(body).to_bytes(4, "big") + body, headers
    )
    answer = connection.getresponse()
    assert (answer.status, answer.headers["access-control-allow-origin"]) == (200, origin)
    frames = answer.read()
    connection.close()
    text, trailers = "", b""
    while frames:
        size = int.from_bytes(frames[1:5], "big")
        if frames[0] & 0x80:
            trailers = frames[5 : 5 + size]
        else:
            text += pb.GenerateResponse.FromString(frames[5 : 5 + size]).text
        frames = frames[5 + size :]
    assert text == texts[1][:50]
    assert b"grpc-status:0" in trailers


def test_readers_that_stop_do_not_hold_up_others_on_the_same_connection(front: Front) -> None:
    with ExitStack() as held, front.client() as slow, front.client() as quick:
        for _ in range(3):
            hold(held, slow.stream(PROMPT, max_chars=100_000))
        assert len(quick.stream(PROMPT, max_chars=2000).read()) == 2000


def test_a_text_survives_a_kill_and_a_drain_is_not_noticed(front: Front, texts: dict[int, str]) -> None:
    """Comes last: it ends the replicas in float32."""
    wanted = Wanted(precision="fp32")
    killed, drained, _ = front.replicas
    with front.client() as client:
        streams = [client.stream(PROMPT, **OPTIONS, seed=seed, replica=wanted) for seed in (0, 1)]
        chunks = [iter(stream) for stream in streams]
        begun = [next(each) for each in chunks]
        killed.signal(signal.SIGKILL)
        assert [first + "".join(rest) for first, rest in zip(begun, chunks, strict=True)] == [texts[0], texts[1]]
        assert sum(stream.resumes for stream in streams) == sum(client.counts.resumes.values()) >= 1
        stream = client.stream(PROMPT, **OPTIONS, seed=2, replica=wanted)
        rest = iter(stream)
        first = next(rest)
        drained.signal(signal.SIGTERM)
        assert (first + "".join(rest), stream.resumes) == (texts[2], 0)
        assert client.stream(PROMPT, max_chars=5).read()  # at the one that is left
    assert drained.wait() == 0


def test_a_cluster_serves_until_ctrl_c(bundles: Path) -> None:
    """As `make cluster` starts it; Ctrl-C goes to the whole group of a terminal."""
    command = [sys.executable, "-m", "benchmarks.replicas.cluster", "--replicas", "2", "--port", "0"]
    cluster = subprocess.Popen(
        [*command, "--models", str(bundles)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert cluster.stdout
    with cluster.stdout as out:
        shown = "".join(itertools.takewhile(lambda line: "Ctrl-C" not in line, out))
        try:
            with Client(re.search(r"Envoy: (\S+),", shown)[1]) as client:  # type: ignore[index]
                assert len(client.stream(PROMPT, max_chars=100).read()) == 100
            processes = [int(pid) for pid in re.findall(r"process (\d+)", shown)]
            assert len(processes) == 2
        finally:
            os.killpg(cluster.pid, signal.SIGINT)
        assert cluster.wait(60) == 0
    for pid in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
