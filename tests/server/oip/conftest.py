"""Clients of the Open Inference Protocol."""

from collections.abc import Iterator

import grpc
import pytest
import tritonclient.grpc as triton

from protos import charstream_pb2_grpc as pb_grpc
from tests.conftest import ServerProcess


@pytest.fixture
def client(server: ServerProcess) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.address) as client:
        yield client


@pytest.fixture
def stub(server: ServerProcess) -> Iterator[pb_grpc.TextGenerationStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield pb_grpc.TextGenerationStub(channel)
