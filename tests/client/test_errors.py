"""Every failure of a call reaches the caller as the client's own error, the same from both clients."""

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from client import (
    AsyncClient,
    CharstreamError,
    Client,
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    NotAllowed,
    Overloaded,
    ServerError,
    Unavailable,
    WrongReplica,
)
from protos import charstream_pb2 as pb
from tests.client.scripted import Generate, abort, endless, serving, text

Failure = Callable[..., Any]


def failing(code: grpc.StatusCode, *details: Any, after: str = "") -> Generate:
    def generate(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        yield from text(*filter(None, [after]))
        abort(context, code, "the reason", *details)

    return generate


def blocking_error(address: str, **options: Any) -> CharstreamError:
    with Client(address) as client, pytest.raises(CharstreamError) as caught:
        list(client.stream("a", **options))
    return caught.value


async def asyncio_error(address: str, **options: Any) -> CharstreamError:
    async with AsyncClient(address) as client:
        with pytest.raises(CharstreamError) as caught:
            async for _ in client.stream("a", **options):
                pass
    return caught.value


async def errors(address: str, **options: Any) -> list[CharstreamError]:
    return [blocking_error(address, **options), await asyncio_error(address, **options)]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequest),
        (grpc.StatusCode.OUT_OF_RANGE, InvalidRequest),
        (grpc.StatusCode.NOT_FOUND, ModelNotFound),
        (grpc.StatusCode.FAILED_PRECONDITION, WrongReplica),
        (grpc.StatusCode.UNAUTHENTICATED, NotAllowed),
        (grpc.StatusCode.PERMISSION_DENIED, NotAllowed),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Overloaded),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.CANCELLED, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.INTERNAL, ServerError),
        (grpc.StatusCode.UNIMPLEMENTED, ServerError),
    ],
)
async def test_each_status_has_its_error_and_keeps_the_text(code: grpc.StatusCode, kind: type[CharstreamError]) -> None:
    with serving(failing(code, after="so far")) as server:
        for error in await errors(server.address):
            assert type(error) is kind
            assert "the reason" in str(error)
            assert error.text == "so far"


async def test_an_invalid_request_names_the_field() -> None:
    violation = error_details_pb2.BadRequest.FieldViolation(field="sampling.temperature", description="is negative")
    detail = error_details_pb2.BadRequest(field_violations=[violation])
    with serving(failing(grpc.StatusCode.INVALID_ARGUMENT, detail)) as server:
        for error in await errors(server.address):
            assert isinstance(error, InvalidRequest)
            assert (error.field, error.description) == ("sampling.temperature", "is negative")


async def test_an_overload_says_when_to_come_back() -> None:
    detail = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
    with serving(failing(grpc.StatusCode.RESOURCE_EXHAUSTED, detail)) as server:
        for error in await errors(server.address):
            assert isinstance(error, Overloaded)
            assert error.retry_after == 1.5


async def test_errors_without_details_still_have_their_kind() -> None:
    with serving(failing(grpc.StatusCode.RESOURCE_EXHAUSTED)) as server:
        for error in await errors(server.address):
            assert isinstance(error, Overloaded)
            assert error.retry_after is None
    with serving(failing(grpc.StatusCode.INVALID_ARGUMENT)) as server:
        for error in await errors(server.address):
            assert isinstance(error, InvalidRequest)
            assert (error.field, error.description) == ("", "the reason")


async def test_details_that_contradict_the_status_are_left_out() -> None:
    def generate(request: pb.GenerateRequest, context: grpc.ServicerContext) -> Iterator[pb.GenerateResponse]:
        context.set_trailing_metadata((("grpc-status-details-bin", b"\x08\x05"),))  # NOT_FOUND
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the reason")
        yield from ()

    with serving(generate) as server:
        for error in await errors(server.address):
            assert isinstance(error, Overloaded)


async def test_a_stream_without_a_finish_is_no_success() -> None:
    with serving(lambda request, context: text("cut", " off")) as server:
        for error in await errors(server.address):
            assert isinstance(error, Unavailable)
            assert error.text == "cut off"


async def test_the_timeout_is_kept_and_the_text_before_it_too() -> None:
    with serving(endless) as server:
        for error in await errors(server.address, timeout=1.5):
            assert isinstance(error, DeadlineExceeded)
            assert error.text.startswith("abab")


async def test_no_server_is_unavailable() -> None:
    with serving(endless) as server:
        address = server.address
    for error in await errors(address):
        assert isinstance(error, Unavailable)


async def test_other_calls_map_their_errors_alike() -> None:
    with serving(endless) as server:  # its GetModel knows no names
        with Client(server.address) as client, pytest.raises(ServerError, match="UNIMPLEMENTED"):
            client.model("tiny")
        async with AsyncClient(server.address) as client_:
            with pytest.raises(ServerError, match="UNIMPLEMENTED"):
                await client_.model("tiny")
    with Client(server.address) as client, pytest.raises(Unavailable):
        client.models()
    async with AsyncClient(server.address) as client_:
        with pytest.raises(Unavailable):
            await client_.models()


async def test_a_message_that_is_too_large_is_no_overload() -> None:
    with serving(endless) as server:
        for error in await errors(server.address, model="m" * (5 << 20)):  # gRPC takes 4 MiB
            assert isinstance(error, InvalidRequest)
            assert error.field == ""
            assert "larger than max" in str(error)
