"""Sequences that survive their server: replicas take them from each other, and hand them over when they drain."""

import asyncio
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as aio
import trustme
from tritonclient.utils import InferenceServerException

from protos import charstream_pb2_grpc as pb_grpc
from server.access.authentication import token_line
from server.oip.replicas import TAKE
from server.oip.sequence_tokens import SequenceTokens
from server.service.resume_tokens import Keys
from server.streaming.sequences import SURE_SECONDS, Key
from tests.conftest import ASCII, ServerProcess, ready, start_server, stop
from tests.server.oip.test_steps import START, choose, greedy_text, token

KEY = b"k" * 40
PROMPTS = ("To be", "Hello", "the", "a")
TOKEN = "t" * 40


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_replicas(bundles: Path, folder: Path, count: int, *flags: str) -> list[ServerProcess]:
    """Replicas that know each other, and each itself, by localhost: a name that certificates have."""
    keys, ports = folder / "keys", free_ports(count)
    keys.write_bytes(KEY)
    keys.chmod(0o600)
    shared = ["--precision", "fp32", "--resume-keys", str(keys), *flags]
    for port in ports:
        shared += ["--replicas", f"localhost:{port}"]
    started = [start_server(bundles, "--port", str(port), *shared) for port in ports]
    return [ready(process) for process in started]


@pytest.fixture(scope="module")
def replicas(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ServerProcess]]:
    processes = start_replicas(bundles, tmp_path_factory.mktemp("replicas"), 3, "--sequence-idle", "60")
    yield processes
    for process in processes:
        stop(process)


@pytest.fixture(scope="module")
def texts(replicas: list[ServerProcess]) -> list[str]:
    """The greedy text after each prompt, with it."""
    with grpc.insecure_channel(replicas[0].address) as channel:
        stub = pb_grpc.TextGenerationStub(channel)
        return [prompt + greedy_text(stub, prompt) for prompt in PROMPTS]


class Walk:
    """A caller who reads and writes a text step by step, each step at a replica of its choice.

    A step that a replica refuses, as it drains, is asked of the next one: it did not happen.
    """

    def __init__(self, clients: Sequence[Any], name: int | str, prompt: str) -> None:
        self.clients, self.name, self.prompt, self.text, self.place = clients, name, prompt, "", 0

    async def step(self, first: int) -> None:
        char = self.text[-1] if self.place else ASCII[START]
        for turn in range(10 * len(self.clients)):
            client = self.clients[(first + turn) % len(self.clients)]
            try:
                options: dict[str, Any] = {"sequence_id": self.name, "sequence_start": self.place == 0}
                result = await client.infer("tiny.step", [token(ASCII.index(char))], **options)
            except InferenceServerException as error:
                # gRPC cancels what comes in as the server ends.
                if error.status() not in ("StatusCode.UNAVAILABLE", "StatusCode.CANCELLED"):
                    raise
                await asyncio.sleep(0.02 * turn)
                continue
            known = self.place < len(self.prompt)
            self.text += self.prompt[self.place] if known else ASCII[choose(result)]
            self.place += 1
            return
        raise AssertionError("no replica took the step")


async def test_a_sequence_goes_wherever_its_steps_go(replicas: list[ServerProcess], texts: list[str]) -> None:
    """Each step is asked of the next replica, as no ring of hashes would: numbers and names."""
    clients = [aio.InferenceServerClient(one.address) for one in replicas]
    walks = [Walk(clients, name, prompt) for name, prompt in zip((7, "seven", 8, "eight"), PROMPTS, strict=True)]
    for place in range(20):
        await asyncio.gather(*(walk.step(place + number) for number, walk in enumerate(walks)))
    assert [walk.text for walk in walks] == [text[:20] for text in texts]
    # It is moved, not copied: what has ended is nowhere.
    await clients[0].infer("tiny.step", [token(START)], sequence_id=7, sequence_end=True)
    for client in clients:
        with pytest.raises(InferenceServerException, match="begin it again with sequence_start"):
            await client.infer("tiny.step", [token(START)], sequence_id=7)
        await client.close()


def test_who_was_believed_dead_gives_way_to_who_went_on(replicas: list[ServerProcess]) -> None:
    """A replica stops, its caller begins anew at another one, the replica wakes up: its old state is not used."""
    first, second = (triton.InferenceServerClient(one.address) for one in replicas[:2])
    first.infer("tiny.step", [token(30)], sequence_id=21, sequence_start=True)
    first.infer("tiny.step", [token(31)], sequence_id=21)
    replicas[0].signal(signal.SIGSTOP)
    second.infer("tiny.step", [token(40)], sequence_id=21, sequence_start=True)
    time.sleep(SURE_SECONDS)
    replicas[0].signal(signal.SIGCONT)
    went_on = first.infer("tiny.step", [token(41)], sequence_id=21).as_numpy("logits")
    first.infer("tiny.step", [token(40)], sequence_id=22, sequence_start=True)
    assert (went_on == first.infer("tiny.step", [token(41)], sequence_id=22).as_numpy("logits")).all()


def test_nobody_else_takes_sequences(replicas: list[ServerProcess]) -> None:
    with triton.InferenceServerClient(replicas[0].address) as client:
        client.infer("tiny.step", [token(START)], sequence_id=31, sequence_start=True)
        digest = client.get_model_config("tiny").config.parameters["digest"].string_value
        claims = [SequenceTokens(Keys.of([key]), b"thief").claim(digest, Key("", 31)) for key in (b"x" * 40, KEY)]
        with grpc.insecure_channel(replicas[0].address) as channel:
            take: Any = channel.unary_unary(TAKE)
            for wrong in (claims[0], claims[1][:-1] + b"x", b"\x01" + claims[1][1:], b"", claims[1][:20]):
                with pytest.raises(grpc.RpcError) as caught:
                    take(wrong)
                assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        client.infer("tiny.step", [token(START)], sequence_id=31)


async def test_no_sequence_is_lost_when_a_replica_drains(replicas: list[ServerProcess], texts: list[str]) -> None:
    """Comes last of these: it ends the first replica. Half of the callers go on meanwhile, the others rest."""
    clients = [aio.InferenceServerClient(one.address) for one in replicas]
    walks = [Walk(clients, f"drain {number}", PROMPTS[number % 4]) for number in range(80)]
    for _ in range(8):
        await asyncio.gather(*(walk.step(0) for walk in walks))
    ended = asyncio.create_task(asyncio.to_thread(replicas[0].wait))
    replicas[0].signal(signal.SIGTERM)
    for place in range(8, 20):
        await asyncio.gather(*(walk.step(0 if place < 14 else 1) for walk in walks[::2]))
    assert await ended == 0
    for walk in walks:
        while walk.place < 20:
            await walk.step(2)
    assert [walk.text for walk in walks] == [texts[number % 4][:20] for number in range(len(walks))]
    assert replicas[0].wait_for(r"tiny: (\d+) of \1 sequences went to other replicas")
    for client in clients:
        await client.close()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--replicas", "charstream"], "--replicas charstream: HOST:PORT is expected"),
        (["--replicas", "charstream:50051"], "the same --resume-keys"),
        (["--replicas", "a:1", "--resume-keys", "k", "--replicas-ca", "ca"], "--replicas-ca is for TLS"),
    ],
)
def test_what_is_missing_is_said_at_the_start(charstream: Any, flags: list[str], says: str) -> None:
    done = charstream("serve", *flags)
    assert done.returncode == 2
    assert says in done.stderr


def test_over_tls_a_sequence_stays_its_callers_own(bundles: Path, tmp_path: Path) -> None:
    """Replicas show each other certificates and need no token of callers; an identity takes its own sequences only."""
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(tmp_path / "ca")
    certificate.private_key_pem.write_to_path(tmp_path / "key")
    for pem in certificate.cert_chain_pems:
        pem.write_to_path(tmp_path / "cert", append=True)
    (tmp_path / "tokens").write_text(token_line("ann", TOKEN) + token_line("bob", TOKEN[::-1] + "b"))
    for name in ("key", "tokens"):
        (tmp_path / name).chmod(0o600)
    files = {"tls-cert": "cert", "tls-key": "key", "tls-client-ca": "ca", "replicas-ca": "ca", "tokens": "tokens"}
    flags = [word for flag, name in files.items() for word in (f"--{flag}", str(tmp_path / name))]
    servers = start_replicas(bundles, tmp_path, 2, *flags)
    try:
        shown = {"root_certificates": "ca", "private_key": "key", "certificate_chain": "cert"}
        paths: dict[str, Any] = {argument: str(tmp_path / name) for argument, name in shown.items()}
        first, second = (triton.InferenceServerClient(one.address, ssl=True, **paths) for one in servers)
        ann, bob = ({"authorization": f"Bearer {secret}"} for secret in (TOKEN, TOKEN[::-1] + "b"))
        first.infer("tiny.step", [token(START)], sequence_id=1, sequence_start=True, headers=ann)
        with pytest.raises(InferenceServerException, match="was not begun here"):
            second.infer("tiny.step", [token(START)], sequence_id=1, headers=bob)
        second.infer("tiny.step", [token(START)], sequence_id=1, headers=ann)
    finally:
        for server in servers:
            stop(server)
