"""The HTTP port in bad company and on bad days: who may call, what one may take, and what is cut."""

import asyncio
import json
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import httpx
import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.access.certificates import https_context
from server.access.reloading import LOOK_SECONDS
from tests.conftest import ServerProcess, ready, start_server, stop
from tests.server.authority import NAME, Setup, issue

ENDLESS = 1_000_000
ROWS = 8
FLAGS = (
    *("--precision", "fp32", "--http-port", "0", "--max-rows", str(ROWS), "--max-waiting", "0", "--grace", "5"),
    *(
        "--handshake-timeout",
        "1",
        "--max-header-bytes",
        "4096",
        "--max-connections",
        "64",
        "--max-prompt-chars",
        "1000",
    ),
    *("--stream-buffer", "256", "--max-stop-chars", "64", "--max-token-bytes", "2000", "--reader-timeout", "2"),
    *("--http-origins", "https://pages.example.org", "--metrics-port", "0"),
)


@pytest.fixture(scope="module")
def port(bundles: Path) -> Iterator[ServerProcess]:
    process = start_server(bundles, *FLAGS)
    yield ready(process)
    stop(process)
    assert "Traceback" not in process.log


@pytest.fixture(scope="module")
def web(port: ServerProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{port.web}", timeout=30) as opened:
        yield opened


def place(process: ServerProcess) -> tuple[str, int]:
    host, _, number = process.web.rpartition(":")
    return host, int(number)


def request(body: bytes, *headers: str) -> bytes:
    lines = ("POST /v1/completions HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", "")
    return "\r\n".join(lines).encode() + body


ENDLESS_STREAM = request(json.dumps({"max_tokens": ENDLESS, "stream": True}).encode())


def all_rows_are_free(process: ServerProcess) -> bool:
    """Whether no text is open, after some seconds at most."""
    with httpx.Client(base_url=f"http://{process.web}", timeout=30) as own:
        for _ in range(200):
            (model,) = own.get("/v1/models").json()["data"]
            if not int(model["charstream"].get("texts", 0)):
                return True
            time.sleep(0.1)
    return False


def test_readers_that_leave_free_their_rows(port: ServerProcess) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(place(port), 20)) for _ in range(ROWS)]
        for connection in opened:
            connection.sendall(ENDLESS_STREAM)
        for connection in opened:
            assert b"200 OK" in connection.recv(1000)
        with httpx.Client(base_url=f"http://{port.web}") as web:
            refused = web.post("/v1/completions", json={"max_tokens": 1})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert refused.json()["error"]["type"] == "rate_limit_error"
    assert all_rows_are_free(port)


def test_a_client_that_leaves_before_a_whole_answer_frees_its_row(port: ServerProcess) -> None:
    with socket.create_connection(place(port), 20) as connection:
        connection.sendall(request(json.dumps({"max_tokens": 900_000}).encode()))
        time.sleep(0.3)
    assert all_rows_are_free(port)


def test_readers_that_stop_are_cut(port: ServerProcess) -> None:
    """Some that began, and take nothing: the reader timeout ends them and their connections."""
    with ExitStack() as stack:
        for _ in range(ROWS):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(place(port))
            connection.sendall(ENDLESS_STREAM)
        time.sleep(0.5)  # they have begun
        assert all_rows_are_free(port)


def test_a_reader_who_is_slow_but_reads_gets_all_of_a_long_answer(port: ServerProcess) -> None:
    """It takes longer than --reader-timeout, which is for readers who take nothing."""
    with socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        reader.connect(place(port))
        reader.settimeout(30)
        reader.sendall(request(json.dumps({"max_tokens": 2500, "logprobs": 5}).encode(), "Connection: close"))
        answer = b""
        while part := reader.recv(8192):
            answer += part
            time.sleep(0.08)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(body)["usage"]["completion_tokens"] == 2500


def test_slow_heads_and_silent_connections_are_cut_and_bodies_answered(port: ServerProcess) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(place(port), 30)) for _ in range(3)]
        opened[0].sendall(b"POST /v1/completions HTTP/1.1\r\nHost:")
        opened[1].sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert opened[0].recv(1000) == b""
        assert opened[2].recv(1000) == b""
        assert opened[1].recv(1000).startswith(b"HTTP/1.1 408 ")


def test_more_connections_than_are_allowed_are_closed(port: ServerProcess) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(socket.create_connection(place(port), 20)) for _ in range(80)]
        assert opened[-1].recv(1000) == b""
    assert all_rows_are_free(port)


def test_what_is_too_large_is_refused(port: ServerProcess, web: httpx.Client) -> None:
    answer = web.post("/v1/completions", content=b'{"prompt": "' + b"a" * 200_000 + b'"}')
    assert answer.status_code == 413
    assert "bytes" in answer.json()["error"]["message"]
    with socket.create_connection(place(port), 20) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 2000)
        assert connection.recv(100).startswith(b"HTTP/1.1 4")


GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}",
    b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\n\r\n" * 20,
    b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    bytes(range(256)) * 40,
    b"\r\n" * 5000,
]


@pytest.mark.parametrize("number", range(len(GARBAGE)))
def test_garbage_is_answered_or_cut_and_never_a_fault(port: ServerProcess, number: int) -> None:
    received = b""
    with socket.create_connection(place(port), 20) as connection, suppress(ConnectionError):
        connection.sendall(GARBAGE[number])
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65_536):
            received += data
    assert b"HTTP/1.1 5" not in received
    assert all_rows_are_free(port)


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_subnormal=False),  # a process in which onnxruntime ran has none
        st.text(max_size=20),
        st.binary(max_size=5).map(repr),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    ["model", "prompt", "max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "n", "logprobs", "echo",
     "logit_bias", "stream", "stream_options", "suffix", "best_of", "charstream", "text", "text_input", "parameters",
     "state", "last"]
)  # fmt: skip
PLACES = st.sampled_from(
    [
        "/v1/completions",
        "/v1/score",
        "/v1/activations",
        "/v2/models/tiny/generate",
        "/v2/models/tiny/generate_stream",
    ]
)
BODIES = (
    st.dictionaries(FIELDS, VALUES, max_size=5).map(lambda body: json.dumps(body).encode())
    | st.binary(max_size=60)
    | st.integers(1, 3000).map(lambda depth: b"[" * depth)
    | st.integers(1, 3000).map(lambda depth: b'{"charstream":' * depth + b"1" + b"}" * depth)
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=PLACES, body=BODIES)
def test_no_body_is_a_fault(web: httpx.Client, where: str, body: bytes) -> None:
    answer = web.post(where, content=body)
    assert answer.status_code in (200, 400), (body, answer.text)
    if answer.status_code == 400:
        assert answer.json()["error"]


def test_pages_of_the_allowed_origin_may_call_and_no_others(web: httpx.Client) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for origin, allowed in (("https://pages.example.org", "https://pages.example.org"), ("https://other.org", None)):
        asked = web.options("/v1/completions", headers=asks | {"Origin": origin})
        assert asked.headers.get("access-control-allow-origin") == allowed
        answer = web.post("/v1/completions", json={"max_tokens": 1}, headers={"Origin": origin})
        assert answer.status_code == 200
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_a_call_shows_in_the_log_and_in_the_metrics(port: ServerProcess, web: httpx.Client) -> None:
    def value() -> float:
        found = httpx.get(f"http://{metrics}/metrics").text
        lines = [
            line
            for line in found.splitlines()
            if line.startswith("grpc_server_handled_total") and wanted <= set(line.split('"'))
        ]
        return float(lines[0].rpartition(" ")[2])

    metrics = port.wait_for(r"metrics on (\S+)")[1]
    wanted = {"charstream.http", "completions", "OK"}
    before = value()
    identifier = web.post("/v1/completions", json={"max_tokens": 7}).json()["id"]
    line = port.wait_for(rf"call id={identifier.removeprefix('cmpl-')} .*")[0]
    assert "method=completions" in line
    assert "status=OK" in line
    assert "generated_chars=7" in line
    assert value() == before + 1


def test_tls_tokens_and_certificates_are_those_of_grpc(bundles: Path, tmp_path: Path) -> None:
    setup = Setup.create(tmp_path / "own")
    process = start_server(bundles, "--precision", "fp32", "--http-port", "0", *setup.flags)
    try:
        ready(process)
        context = ssl.create_default_context(cafile=str(setup.own.ca))
        context.load_cert_chain(setup.client.cert, setup.client.key)
        with httpx.Client(base_url=f"https://{process.web}", verify=context, timeout=30) as web:
            named = {"Host": NAME}
            assert web.get("/health", headers=named).json() == {"status": "ready"}
            refused = web.post("/v1/completions", json={"max_tokens": 1})
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
            answer = web.post(
                "/v1/completions", json={"max_tokens": 1}, headers={"Authorization": f"Bearer {setup.token}"}
            )
            assert answer.status_code == 200
            body, headers = {"max_tokens": 20_000, "stream": True}, {"Authorization": f"Bearer {setup.token}"}
            assert web.post("/v1/completions", json=body, headers=headers).text.endswith("data: [DONE]\n\n")
        bare = ssl.create_default_context(cafile=str(setup.own.ca))
        with httpx.Client(base_url=f"https://{process.web}", verify=bare) as web, pytest.raises(httpx.HTTPError):
            web.get("/health")
    finally:
        stop(process)


async def test_new_connections_see_a_certificate_that_was_replaced(tmp_path: Path) -> None:
    authority = trustme.CA()
    used, new = (issue(authority, tmp_path / name, NAME) for name in ("used", "new"))

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(close, "127.0.0.1", 0, ssl=https_context(used.cert, used.key, None))
    async with listening:
        place = listening.sockets[0].getsockname()
        first = await asyncio.to_thread(ssl.get_server_certificate, place)
        assert ssl.PEM_cert_to_DER_cert(first) == ssl.PEM_cert_to_DER_cert(used.cert.read_text())
        new.cert.replace(used.cert)
        new.key.replace(used.key)
        await asyncio.sleep(1.1 * LOOK_SECONDS)
        second = await asyncio.to_thread(ssl.get_server_certificate, place)
        assert ssl.PEM_cert_to_DER_cert(second) == ssl.PEM_cert_to_DER_cert(used.cert.read_text())
        assert first != second


def test_calls_given_up_over_connections_of_their_own_count_together(bundles: Path) -> None:
    process = ready(start_server(bundles, *FLAGS, "--connection-cancels", "0.5"))
    try:
        with ExitStack() as stack:
            for _ in range(ROWS):  # five may be given up at once
                connection = stack.enter_context(socket.create_connection(place(process), timeout=20))
                connection.sendall(ENDLESS_STREAM)
                assert b"200 OK" in connection.recv(1000)
        with httpx.Client(base_url=f"http://{process.web}", timeout=20) as web:
            answers = (web.post("/v1/completions", json={"max_tokens": 1}) for _ in range(5))
            refused = next(answer for answer in answers if answer.status_code == 429)
        assert "gave up more than 0.5 calls a second" in refused.json()["error"]["message"]
    finally:
        stop(process)


async def test_a_drain_lets_texts_end_and_refuses_new_ones(bundles: Path) -> None:
    process = await asyncio.to_thread(ready, start_server(bundles, "--precision", "fp32", "--http-port", "0"))
    try:
        async with httpx.AsyncClient(base_url=f"http://{process.web}", timeout=60) as web:
            body = {"max_tokens": 30_000, "stream": True, "seed": 1}
            async with web.stream("POST", "/v1/completions", json=body) as answer:
                lines = answer.aiter_lines()
                await anext(lines)
                process.signal(signal.SIGTERM)
                await asyncio.to_thread(process.wait_for, "drains")
                refused = await web.post("/v1/completions", json={"max_tokens": 1})
                assert refused.status_code == 503
                assert (await web.get("/health")).status_code == 503
                assert [line async for line in lines if line][-1] == "data: [DONE]"
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        stop(process)


def test_a_text_that_outlives_the_grace_ends_with_an_error_and_a_token(bundles: Path) -> None:
    process = ready(start_server(bundles, "--precision", "fp32", "--http-port", "0", "--grace", "0.3"))
    try:
        body = {"max_tokens": ENDLESS, "stream": True, "charstream": {"return_token": True}}
        with (
            httpx.Client(base_url=f"http://{process.web}", timeout=60) as web,
            web.stream("POST", "/v1/completions", json=body) as answer,
        ):
            lines = answer.iter_lines()
            next(lines)
            process.signal(signal.SIGTERM)
            *_, last, error = [json.loads(line.removeprefix("data: ")) for line in lines if line]
        assert last["choices"][0]["charstream"]["finish"]["reason"] == "FINISH_REASON_DRAINED"
        assert last["choices"][0]["charstream"]["finish"]["resume_token"]
        assert last["choices"][0]["finish_reason"] is None
        assert error["error"]["code"] == "unavailable"
        assert process.wait() == 0
        assert "Traceback" not in process.log
    finally:
        stop(process)


def test_a_port_in_use_is_one_line(port: ServerProcess, bundles: Path) -> None:
    host, number = place(port)
    process = start_server(bundles, "--http-port", str(number))
    try:
        assert process.wait() == 1
        process.wait_for(f"charstream serve: --http-port: cannot listen on {host}:{number}: Address already in use\n")
    finally:
        stop(process)
