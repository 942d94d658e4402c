"""Bytes that are no message are the caller's fault, whatever the method, and say nothing of how the server is made."""

import grpc
import pytest
from google.rpc import error_details_pb2

from tests.conftest import ServerProcess
from tests.server.service.test_bad_input import detail

METHODS = (
    "charstream.v1.TextGeneration/Generate",
    "charstream.v1.TextGeneration/Score",
    "charstream.v1.Models/ListModels",
    "charstream.v1.Models/GetModel",
    "grpc.health.v1.Health/Check",
    "grpc.health.v1.Health/Watch",
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
)


@pytest.mark.parametrize("method", METHODS)
def test_bytes_that_are_no_message_are_an_invalid_argument(server: ServerProcess, method: str) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.stream_stream(f"/{method}")(iter([b"\xff\xff\xff"]), timeout=30))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "request: is no message of this method's type, or a piece of one"
    assert detail(caught.value, error_details_pb2.BadRequest).field_violations[0].field == "request"
    assert "Traceback" not in server.log


def test_a_text_that_is_no_utf_8_is_one_too(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        list(channel.unary_stream(f"/{METHODS[0]}")(b"\x12\x02\xff\xff", timeout=30))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
