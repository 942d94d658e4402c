"""Who may call, who that is, and what `charstream token` writes."""

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from charstream.__main__ import main
from server.access.authentication import Authenticator, token_line
from server.access.cancel_limit import CancelLimit
from server.access.certificates import server_credentials
from server.access.reloading import FileError
from server.observe.call import Call
from server.service.calls import Calls
from server.service.interceptors.calls import CallInterceptor
from server.service.interceptors.errors import ErrorInterceptor
from tests.server.authority import Pem, issue

METHOD = "/test.Service/Ask"


@dataclass
class Gate:
    """A server with one method behind the interceptors, and who called it."""

    address: str
    seen: list[str] = field(default_factory=list)

    def on_begin(self, call: Call) -> None: ...

    def on_message(self, call: Call, chars: int, seconds: float | None) -> None: ...

    def on_end(self, call: Call) -> None:
        self.seen.append(call.identity)


@asynccontextmanager
async def gate(access: Authenticator, credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[Gate]:
    opened = Gate("")
    server = grpc.aio.server(
        interceptors=[ErrorInterceptor(), CallInterceptor(Calls(access, [opened], CancelLimit(0)))]
    )

    async def answer(request: bytes, context: Any) -> bytes:
        return b"answer"

    handler = grpc.unary_unary_rpc_method_handler(answer)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Service", {"Ask": handler}),))
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)
    reflection.enable_server_reflection([reflection.SERVICE_NAME], server)
    place = "127.0.0.1:0"
    port = server.add_secure_port(place, credentials) if credentials else server.add_insecure_port(place)
    opened.address = f"127.0.0.1:{port}"
    await server.start()
    try:
        yield opened
    finally:
        await server.stop(None)


async def ask(address: str, *headers: str, credentials: grpc.ChannelCredentials | None = None) -> bytes:
    """Calls with so many headers "authorization"."""
    channel = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
    async with channel:
        answer: bytes = await channel.unary_unary(METHOD)(b"", metadata=[("authorization", one) for one in headers])
        return answer


async def refusal(address: str, *headers: str) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(address, *headers)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    return str(caught.value.details())


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    file = tmp_path / "tokens"
    file.write_text("# who\n\n" + token_line("ada", "first") + token_line("bob", "other") + token_line("ada", "second"))
    return file


async def test_without_a_token_that_is_known_nobody_gets_in(tokens: Path) -> None:
    async with gate(Authenticator(tokens)) as opened:
        assert "is missing" in await refusal(opened.address)
        assert "several times" in await refusal(opened.address, "Bearer first", "Bearer other")
        for form in ("first", "Basic first", "Bearer", "Bearer "):
            assert "another form" in await refusal(opened.address, form)
        unknown = [await refusal(opened.address, f"Bearer {token}") for token in ("wrong", "ada", "First")]
        digest = token_line("ada", "first").split()[1]
        unknown.append(await refusal(opened.address, f"Bearer {digest}"))
        assert set(unknown) == {"authorization: the token is not known here"}
        assert opened.seen == [""] * 10


async def test_a_token_tells_who_calls(tokens: Path) -> None:
    async with gate(Authenticator(tokens)) as opened:
        for header in ("Bearer first", "bearer other", "Bearer second"):
            assert await ask(opened.address, header) == b"answer"
        assert opened.seen == ["ada", "bob", "ada"]


async def test_reflection_wants_a_token_and_health_does_not(tokens: Path) -> None:
    async with gate(Authenticator(tokens)) as opened, grpc.aio.insecure_channel(opened.address) as channel:
        listing = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listing(iter([reflection_pb2.ServerReflectionRequest(list_services="")])).read()
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
        request = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        shown = await listing(request, metadata=[("authorization", "Bearer other")]).read()
        assert shown.list_services_response.service
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def lets_in(address: str, header: str) -> bool:
    try:
        return await ask(address, header) == b"answer"
    except grpc.aio.AioRpcError:
        return False


async def eventually(address: str, header: str, *, lets: bool) -> None:
    end = time.monotonic() + 20
    while await lets_in(address, header) != lets:
        assert time.monotonic() < end, f"{header}: still not {lets}"
        await asyncio.sleep(0.1)


async def test_the_file_is_read_again_when_it_changes(tokens: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with gate(Authenticator(tokens)) as opened:
        tokens.write_text(token_line("bob", "other") + token_line("eve", "new"))
        await eventually(opened.address, "Bearer new", lets=True)
        assert not await lets_in(opened.address, "Bearer first")
        tokens.write_text(token_line("eve", "newest") + "half a li")
        end = time.monotonic() + 40
        while "line 2: is not `NAME SHA256`" not in caplog.text and time.monotonic() < end:
            assert await lets_in(opened.address, "Bearer new")
            await asyncio.sleep(0.1)
        assert await lets_in(opened.address, "Bearer other")
        assert caplog.text.count("line 2: is not `NAME SHA256`") == 1
        tokens.write_text("")  # as while it is being written
        while "is empty" not in caplog.text and time.monotonic() < end:
            assert await lets_in(opened.address, "Bearer new")
            await asyncio.sleep(0.1)
        assert await lets_in(opened.address, "Bearer other")
        tokens.write_text("# nobody any more\n")
        await eventually(opened.address, "Bearer new", lets=False)


@pytest.mark.parametrize(
    "line",
    ["ada", "ada first", f"ada {'0' * 63}", f"two names {'0' * 64}", f"a/b {'0' * 64}", f"{'a' * 65} {'0' * 64}"],
)
def test_a_line_that_is_none_is_named_and_not_shown(tmp_path: Path, line: str) -> None:
    (tmp_path / "tokens").write_text(f"# who\n{line}\n")
    with pytest.raises(FileError, match="tokens, line 2: is not `NAME SHA256`") as caught:
        Authenticator(tmp_path / "tokens")
    assert line not in str(caught.value)


@pytest.fixture(scope="module")
def clients() -> trustme.CA:
    return trustme.CA()


@pytest.mark.parametrize(
    ("common_name", "seen"), [("ada", "ada"), (None, "ada@example.org")], ids=["common name", "alternative name"]
)
async def test_without_tokens_a_certificate_tells_who_calls(
    tmp_path: Path, clients: trustme.CA, common_name: str | None, seen: str
) -> None:
    own = issue(trustme.CA(), tmp_path / "own", "127.0.0.1")
    client = issue(clients, tmp_path / "client", "ada@example.org", common_name=common_name)
    async with gate(Authenticator(None), server_credentials(own.cert, own.key, client.ca)) as opened:
        await ask(opened.address, credentials=client.credentials(own.ca))
        assert opened.seen == [seen]


async def test_a_token_comes_before_the_certificate(tmp_path: Path, tokens: Path, clients: trustme.CA) -> None:
    own = issue(trustme.CA(), tmp_path / "own", "127.0.0.1")
    client: Pem = issue(clients, tmp_path / "client", "ada@example.org", common_name="cn")
    async with gate(Authenticator(tokens), server_credentials(own.cert, own.key, client.ca)) as opened:
        credentials = client.credentials(own.ca)
        await ask(opened.address, "Bearer other", credentials=credentials)
        with pytest.raises(grpc.aio.AioRpcError, match="is missing"):
            await ask(opened.address, credentials=credentials)
        assert opened.seen == ["bob", ""]


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask")
async def test_the_command_makes_a_token_that_the_server_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "tokens"
    made = []
    for name in ("ada", "bob@example.org"):
        assert main(["token", name, "--file", str(file)]) == 0
        made.append(capsys.readouterr())
        assert not made[-1].err
    assert file.stat().st_mode & 0o777 == 0o600
    lines = [shown.out for shown in made]
    assert all(re.fullmatch(r"[\w-]{43}\n", line) for line in lines)
    assert lines[0] != lines[1]
    assert not any(line.strip() in file.read_text() for line in lines)
    async with gate(Authenticator(file)) as opened:
        for line in lines:
            await ask(opened.address, f"Bearer {line.strip()}")
        assert opened.seen == ["ada", "bob@example.org"]


def test_the_command_spoils_no_line_that_has_no_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "tokens"
    file.write_text(token_line("ada", "first").rstrip())
    assert main(["token", "bob", "--file", str(file)]) == 0
    assert file.read_text() == token_line("ada", "first") + token_line("bob", capsys.readouterr().out.strip())


def test_without_a_file_the_line_is_shown_and_stdout_has_the_token_only(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "ada"]) == 0
    shown = capsys.readouterr()
    assert shown.err.endswith(token_line("ada", shown.out.strip()))


@pytest.mark.parametrize("name", ["two words", "", "a" * 65, "ada\n"])
def test_a_name_that_is_none_is_wrong_usage(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", name])
    assert ended.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_cannot_be_written_gives_no_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", "ada", "--file", str(tmp_path)])
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
