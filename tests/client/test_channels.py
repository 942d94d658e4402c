"""The addresses and their connections: TLS and tokens as a server sees them, and tokens that must not be sent."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from client import AsyncClient, Client, Unavailable
from client.channels import to_target
from protos import charstream_pb2 as pb
from tests.client.reading import both, read, read_error
from tests.client.replica import Fault, Replica
from tests.client.scripted import dead_address, endless, serving, tell_token


@pytest.fixture(scope="module")
def certificate(certificate_files: tuple[Path, Path]) -> tuple[bytes, bytes]:
    key, certificate = certificate_files
    return key.read_bytes(), certificate.read_bytes()


@both
def test_over_tls_the_server_sees_the_token(kind: str, certificate: tuple[bytes, bytes]) -> None:
    trusted = grpc.ssl_channel_credentials(certificate[1])
    with serving(tell_token, credentials=grpc.ssl_server_credentials([certificate])) as server:
        outcome = read(kind, server.address, "stream", "a", credentials=trusted, token="secret")
        assert (outcome.error, outcome.stream.text) == (None, "Bearer secret")
        assert isinstance(read_error(kind, server.address, "stream", "a"), Unavailable)
        untrusted = grpc.ssl_channel_credentials()
        assert isinstance(read_error(kind, server.address, "stream", "a", credentials=untrusted), Unavailable)


@both
def test_a_token_goes_with_every_call_that_resumes(kind: str) -> None:
    replica, tokens = Replica([Fault("unavailable", 10)]), []

    def generate(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        tokens.append(dict(context.invocation_metadata())["authorization"])  # type: ignore[arg-type]
        yield from replica.generate(request, context)

    with serving(generate) as server:
        assert not read(kind, server.address, "stream", "a", token="secret").error
    assert tokens == ["Bearer secret"] * 2


async def test_a_token_goes_with_the_other_calls_too() -> None:
    with serving(endless) as server:
        with Client(server.address, token="secret") as client:
            client.models()
        async with AsyncClient(server.address, token="secret") as client_:
            await client_.models()
    assert server.tokens == ["Bearer secret"] * 2


@pytest.mark.parametrize(
    "address",
    ["10.0.0.5:1", "example.org:1", "[2001:db8::1]:1", "dns:///far:1", "dns://8.8.8.8/localhost:1", "127.0.0.1.far:1"],
)
def test_a_token_that_anybody_could_read_is_not_sent(address: str) -> None:
    with pytest.raises(ValueError, match="token") as caught:
        Client(["127.0.0.1:1", address], token="secret")
    assert address in str(caught.value)
    assert "secret" not in str(caught.value)
    Client(address, token="secret", credentials=grpc.ssl_channel_credentials()).close()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/tmp/charstream"])
def test_on_this_machine_a_token_needs_no_tls(address: str) -> None:
    Client(address, token="secret").close()


@both
@pytest.mark.parametrize("form", ["{}", "ipv4:{}", "dns:///{}", "dns:{}", "localhost:{port}", "ipv6:[::1]:{port6}"])
def test_addresses_of_this_machine_need_no_proxy(kind: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tell_token) as server:
        relay = _relay_from_ipv6(server.address) if "6" in form.replace("ipv4", "") else nullcontext("0")
        with relay as port6:
            address = form.format(server.address, port=server.address.rpartition(":")[2], port6=port6)
            for name in ("http_proxy", "grpc_proxy", "https_proxy"):
                monkeypatch.setenv(name, f"http://{dead_address()}")
            outcome = read(kind, address, "stream", "a", token="secret")
    assert (outcome.error, outcome.stream.text) == (None, "Bearer secret")


@contextmanager
def _relay_from_ipv6(address: str) -> Iterator[str]:
    """Yield a port of [::1] that leads to `address`, once."""
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    host, _, port = address.rpartition(":")

    def copy(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)

    def serve() -> None:
        near, _ = listener.accept()
        far = socket.create_connection((host, int(port)))
        threading.Thread(target=copy, args=(far, near), daemon=True).start()
        copy(near, far)
        near.close()
        far.close()

    threading.Thread(target=serve, daemon=True).start()
    with listener:
        yield str(listener.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("10.0.0.5", "10.0.0.5:50051"),
        ("replica-1.example.org", "replica-1.example.org:50051"),
        ("my_service:7", "my_service:7"),
        ("[::1]", "[::1]:50051"),
        ("::1", "[::1]:50051"),
        ("2001:db8::7", "[2001:db8::7]:50051"),
        ("[2001:db8::7]:7", "[2001:db8::7]:7"),
        ("ipv4:10.0.0.5", "ipv4:10.0.0.5:50051"),
        ("ipv4:10.0.0.5:7,10.0.0.6:7", "ipv4:10.0.0.5:7,10.0.0.6:7"),
        ("ipv6:[::1]", "ipv6:[::1]:50051"),
        ("dns:///far", "dns:///far:50051"),
        ("dns://8.8.8.8/far:7", "dns://8.8.8.8/far:7"),
        ("unix:///run/charstream", "unix:///run/charstream"),
    ],
)
def test_an_address_without_a_port_means_ours(address: str, target: str) -> None:
    assert to_target(address) == target


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("http://10.0.0.5:50051", "begins with http://, host:port alone is expected; TLS is asked for by credentials"),
        ("https://10.0.0.5:50051", "begins with https://"),
        ("HTTP://far", "begins with HTTP://"),
        ("grpc://10.0.0.5:50051", "begins with grpc://"),
        ("", "is none: host:port is expected, such as 127.0.0.1:50051 or"),
        ("10.0.0.5:50051/", "is none"),
        ("10.0.0.5:0", "is none"),
        ("10.0.0.5:500510", "is none"),
        ("1:2:3", "is none"),
        ("two words", "is none"),
    ],
)
def test_what_is_no_address_is_refused_and_named(address: str, says: str) -> None:
    with pytest.raises(ValueError, match=r"^the address ") as caught:
        Client(address)
    assert repr(address) in str(caught.value)
    assert says in str(caught.value)


@both
def test_a_certificate_may_have_another_name(kind: str, certificate: tuple[bytes, bytes]) -> None:
    trusted = grpc.ssl_channel_credentials(certificate[1])
    with serving(tell_token, credentials=grpc.ssl_server_credentials([certificate])) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        assert isinstance(read_error(kind, address, "stream", "a", credentials=trusted), Unavailable)
        assert not read(kind, address, "stream", "a", credentials=trusted, tls_name="127.0.0.1").error


@pytest.mark.parametrize("token", ["", "two words", "line\n", "é"])
def test_a_token_that_no_header_can_carry_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match=r"^token: it is empty, or has characters that no header can carry [^é\n]*$"):
        Client("127.0.0.1:1", token=token)


def test_a_client_needs_an_address() -> None:
    with pytest.raises(ValueError, match="addresses"):
        Client([])


async def test_other_calls_try_each_address() -> None:
    with serving(endless) as server:
        addresses = [dead_address(), server.address]
        for _ in range(2):
            with Client(addresses) as client:
                assert client.models() == []
            async with AsyncClient(addresses) as client_:
                assert await client_.models() == []


@both
@pytest.mark.parametrize("ending", ["reset", "connection cut", "no trailers"])
def test_what_cuts_a_stream_in_between_is_no_fault_of_the_server(kind: str, ending: str) -> None:
    """HTTP/2 as a proxy ends it, byte by byte: gRPC calls it INTERNAL, UNAVAILABLE and UNKNOWN."""
    first = pb.GenerateResponse(text="abc", started=pb.Started(seed=1, max_chars=40))
    with Proxy(first, ending) as proxy:
        error = read_error(kind, proxy.address, "stream", "a", patience=0)
    assert isinstance(error, Unavailable)
    assert (error.text, error.progress is None) == ("abc", False)


class Proxy:
    """Answers one call with one message, and ends it badly."""

    def __init__(self, response: pb.GenerateResponse, ending: str) -> None:
        self._response, self._ending = response.SerializeToString(), ending
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Proxy":
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._thread.join(10)
        self._listener.close()

    def _answer(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            connection.sendall(_frame(4, 0, 0) + _frame(4, 1, 0))  # SETTINGS, and that the other's are accepted
            received = b""
            while b"/charstream.v1.TextGeneration/Generate" not in received:
                received += connection.recv(65_536)
            message = b"\0" + struct.pack(">I", len(self._response)) + self._response
            headers = b"\x88" + _header(b"content-type", b"application/grpc")  # :status 200
            connection.sendall(_frame(1, 4, 1, headers) + _frame(0, 0, 1, message))
            time.sleep(0.3)  # gRPC drops a message that its reader hasn't seen yet when the stream breaks
            if self._ending == "reset":
                connection.sendall(_frame(3, 0, 1, struct.pack(">I", 2)))
            if self._ending == "no trailers":
                connection.sendall(_frame(0, 1, 1))
            if self._ending != "connection cut":
                connection.recv(65_536)


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _header(name: bytes, value: bytes) -> bytes:
    """Encode a literal header, without Huffman's code."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
