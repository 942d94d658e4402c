"""Every error of docs/errors.md is provoked, and is what that page says."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from tests.conftest import ServerProcess, ready, start_server, stop

R = pb.GenerateRequest
PAGE = (Path(__file__).parents[3] / "docs" / "errors.md").read_text()
# Provoked where what causes them is: test_lifecycle.py (drain, engine, waiting, lost connections, deadline).
ELSEWHERE = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "no row of the batch", "INTERNAL")


@pytest.fixture(scope="module")
def strict(bundles: Path) -> Iterator[ServerProcess]:
    """Room for one text, with a key of its own."""
    process = start_server(bundles, "--precision", "int8", "--max-rows", "1", "--max-waiting", "0")
    yield ready(process)
    stop(process)


def token_of(server: ServerProcess) -> bytes:
    with grpc.insecure_channel(server.address) as channel:
        call = rpc.TextGenerationStub(channel).Generate(R(max_chars=1, return_token=True))
        return list(call)[-1].finish.resume_token


def generate(address: str, request: pb.GenerateRequest) -> None:
    with grpc.insecure_channel(address) as channel:
        for _ in rpc.TextGenerationStub(channel).Generate(request):
            pass


def overload(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        running = rpc.TextGenerationStub(channel).Generate(R(max_chars=1_000_000))
        next(running)
        try:
            generate(address, R())
        finally:
            running.cancel()


def unimplemented(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        channel.unary_unary("/charstream.v1.TextGeneration/Converse")(b"")


Provoke = Callable[[ServerProcess, ServerProcess], None]
# By what is in the first column of the page's table.
PROVOKED: dict[str, Provoke] = {
    "`INVALID_ARGUMENT` `FIELD: ...`": lambda a, b: generate(a.address, R(max_chars=0)),
    "`INVALID_ARGUMENT` `FIELD: character 'x' (U+0078) at place N is not in the vocabulary`": lambda a, b: generate(
        a.address, R(prompt="\u00ef")
    ),
    "`INVALID_ARGUMENT` `... (--FLAG)`": lambda a, b: generate(a.address, R(prompt="a" * 20_001)),
    "`INVALID_ARGUMENT` `resume_token: is no token ...`": lambda a, b: generate(a.address, R(resume_token=b"abc")),
    "`INVALID_ARGUMENT` `resume_token: was changed after it was signed`": lambda a, b: generate(
        a.address, R(resume_token=token_of(a)[:-1] + b"\0")
    ),
    "`INVALID_ARGUMENT` `resume_token: was signed with a key that this server does not know`": lambda a, b: generate(
        a.address, R(resume_token=token_of(b))
    ),
    "`FAILED_PRECONDITION` `...: the text began with precision ...` or `numerics ...`": lambda a, b: generate(
        b.address, R(replica=pb.Replica(precision="fp32"))
    ),
    "`NOT_FOUND` `model: 'x' is not served; served are ...`": lambda a, b: generate(a.address, R(model="x")),
    "`RESOURCE_EXHAUSTED` `the model has N texts running and waiting ...`": lambda a, b: overload(b.address),
    "`RESOURCE_EXHAUSTED` `Received message larger than max`": lambda a, b: generate(a.address, R(prompt="a" * 2**22)),
    "`UNIMPLEMENTED`": lambda a, b: unimplemented(a.address),
}
# Where they are provoked, or why their cause cannot be had here.
OTHERS = {
    "`CANCELLED`": "test_server.py",
    "`INVALID_ARGUMENT` `request: is no message of this method's type, or a piece of one`": "test_decoding.py",
    "`INVALID_ARGUMENT` `resume_token: holds ...`": "test_resume_state.py",
    "`RESOURCE_EXHAUSTED` `WHO: N texts are running and waiting, the limit (--identity-streams)`": "test_quotas.py",
    "`RESOURCE_EXHAUSTED` `WHO: N characters a second are the limit (--identity-chars) ...`": "test_quotas.py",
    "`RESOURCE_EXHAUSTED` `this connection or address gave up more than N calls a second, "
    "the limit (--connection-cancels)`": "test_quotas.py",
    "`RESOURCE_EXHAUSTED` `nothing was read for N s, the limit (--reader-timeout)`": "test_quotas.py",
    "`UNAVAILABLE` `the call lasted N s, the limit (--max-seconds); go on in another one`": "test_quotas.py",
    "`UNAUTHENTICATED` `authorization: ...`": "test_authentication.py",
    "`INVALID_ARGUMENT` `model: is empty ...`": "test_model_life.py",
    "`PERMISSION_DENIED` `...: the server was started without --admin`": "oip/test_repository.py",
    "`NOT_FOUND` `sequence_id: ... begin it again with sequence_start`": "oip/test_steps.py",
    "`RESOURCE_EXHAUSTED` `the model has N steps waiting ...`": "streaming/test_steps.py",
    "`RESOURCE_EXHAUSTED` `all of the N sequences that the model may hold are in use (--sequence-memory)`": (
        "streaming/test_steps.py"
    ),
    "`FAILED_PRECONDITION` `resume_token: the text began with digest ...`": "test_resume_tokens.py",
    "`RESOURCE_EXHAUSTED` `no row of the batch was free for N s ...`": "test_server.py",
    "`FAILED_PRECONDITION` `model: NAME VERSION cannot be loaded: ...`": "test_model_life.py",
    "`RESOURCE_EXHAUSTED` `model: NAME VERSION was not loaded in N s ...`": "test_model_life.py",
    "`UNAVAILABLE` `the server is shutting down`": "test_server.py",
    "`UNAVAILABLE` in gRPC's words": "test_server.py",
    "`DEADLINE_EXCEEDED`": "test_server.py",
    "`INTERNAL` `internal error ID; the server's log has the cause under this number`": "test_error_interceptor.py",
    "`INTERNAL` `N engine processes ended one after the other while they ran this text`": "test_engine_processes.py",
}


def rows() -> list[str]:
    table = PAGE.split("## Of a call")[1].split("## ")[0]
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| `")]


def test_every_row_of_the_page_is_provoked() -> None:
    assert sorted(rows()) == sorted([*PROVOKED, *OTHERS])
    for where in OTHERS.values():
        assert any((Path(__file__).parents[1]).rglob(where))


@pytest.mark.parametrize("row", PROVOKED)
def test_the_error_is_the_one_of_the_page(server: ServerProcess, strict: ServerProcess, row: str) -> None:
    code, *messages = re.findall("`(.*?)`", row)
    with pytest.raises(grpc.RpcError) as caught:
        PROVOKED[row](server, strict)
    assert caught.value.code() == grpc.StatusCode[code]
    for message in messages[:1]:
        for part in re.split(r"\.\.\.|FIELD|FLAG|\bN\b|'x' \(U\+0078\)", message):
            assert part.strip() in caught.value.details()
