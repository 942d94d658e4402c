"""A token that is signed rightly may still say what this model cannot do: it is refused, and nobody else notices."""

import math
import struct
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from server.service.resume_tokens import Keys
from server.service.token_pb2 import TextState
from tests.conftest import ServerProcess, ready, start_server, stop

KEY = b"a key that two versions of a server share"
FLOATS = 2 * 2 * 64  # h and c of two layers of 64
R = pb.GenerateRequest


def floats(value: float) -> bytes:
    return struct.pack("<f", value) * FLOATS


STRANGE = {
    "short state": (TextState(state=b"abc"), "a state of 3 bytes, of this model it has 1024"),
    "no state": (TextState(position=3), "a state of 0 bytes"),
    "unknown character": (TextState(state=floats(0), character=96), "a character with the number 96, the model has 96"),
    "unknown way": (TextState(state=floats(0), forced=[0, 2**32 - 1]), "the number 4294967295"),
    "far position": (TextState(state=floats(0), position=2**64 - 1), "the position 18446744073709551615"),
    "not a number": (TextState(state=floats(math.nan)), "a state h0 that no text leads to"),
    "infinite": (TextState(state=floats(0)[:256] + floats(math.inf)[256:]), "a state c0 that no text leads to"),
    "out of bounds": (TextState(state=floats(3e38)), "a state h0 that no text leads to"),
}


@pytest.fixture(scope="module")
def sharing(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.touch(0o600)
    keys.write_bytes(KEY)
    process = start_server(bundles, "--precision", "fp32", "--resume-keys", str(keys))
    try:
        yield ready(process)
    finally:
        stop(process)


@pytest.mark.parametrize("case", STRANGE)
def test_a_signed_token_that_does_not_fit_is_refused(sharing: ServerProcess, case: str) -> None:
    state, words = STRANGE[case]
    token = Keys.of([KEY]).seal(state)
    with grpc.insecure_channel(sharing.address) as channel:
        stub = rpc.TextGenerationStub(channel)
        for call in (
            lambda: stub.Generate(R(resume_token=token, max_chars=5, logprobs=5)),
            lambda: stub.Score(pb.ScoreRequest(resume_token=token, text="a", alternatives=5)),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                list(call())
            assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
            assert caught.value.details().startswith("resume_token: holds ")
            assert words in caught.value.details()
        assert list(stub.Generate(R(max_chars=1))), "the server goes on"


def test_the_last_place_that_is_allowed_can_be_gone_on_from(sharing: ServerProcess) -> None:
    token = Keys.of([KEY]).seal(TextState(state=floats(1), character=95, forced=[95], position=2**62))
    with grpc.insecure_channel(sharing.address) as channel:
        request = R(resume_token=token, max_chars=5, logprobs=5, return_token=True)
        finish = list(rpc.TextGenerationStub(channel).Generate(request))[-1].finish
    assert finish.position == 2**62 + 6
