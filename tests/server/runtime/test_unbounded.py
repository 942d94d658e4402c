"""A model whose state has no bound, and no 8 bits, is served and gone on with as any other."""

from collections.abc import Iterator

import grpc
import pytest
import torch

from bundle.write import write_bundle
from export.build import build
from models.training.checkpoint import Trained
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from tests.conftest import ServerProcess, ready, start_server, stop, tiny_model
from tests.server.reference import assert_is_reference


@pytest.fixture(scope="module")
def trained() -> Trained:
    """Its units go far beyond 1."""
    trained = tiny_model(cell="rnn", activation="relu", residual=True, hidden=16)
    with torch.no_grad():
        trained.model.head.weight.div_(10)
        for layer in trained.model.layers:
            layer.bias_ih += 3
    return trained


@pytest.fixture(scope="module")
def relu_server(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("relu")
    write_bundle(folder / "relu", *build(trained, "relu", "1"))
    process = start_server(folder)
    yield ready(process)
    stop(process)


def test_a_text_is_the_models_and_can_be_gone_on_with(relu_server: ServerProcess, trained: Trained) -> None:
    _, state = trained.model(torch.zeros(20, 1, dtype=torch.int64), trained.model.initial_state(1))
    assert all(tensor.max() > 2 for tensor in state)
    request = pb.GenerateRequest(prompt="Hello", max_chars=60, seed=3)
    with grpc.insecure_channel(relu_server.address) as channel:
        stub = rpc.TextGenerationStub(channel)
        whole = "".join(message.text for message in stub.Generate(request))
        assert_is_reference(trained, request, whole)
        first = list(stub.Generate(pb.GenerateRequest(prompt="Hello", max_chars=25, seed=3, return_token=True)))
        again = stub.Generate(pb.GenerateRequest(resume_token=first[-1].finish.resume_token, max_chars=35))
        assert "".join(message.text for message in first) + "".join(message.text for message in again) == whole
