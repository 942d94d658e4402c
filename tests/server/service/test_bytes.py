"""A model of bytes, from text to stream: whole characters as text, every byte as `raw`, and on from anywhere."""

import base64
import json
import random
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundle.vocabulary import CharacterDecoder, partial_character
from client import Client
from client.commands.printing import print_json
from export.__main__ import main as export
from export.evaluate import main as evaluate
from models.network.generate import generate
from models.train import main as train
from models.training.checkpoint import Trained, load
from protos import charstream_pb2 as pb
from protos import charstream_pb2_grpc as rpc
from tests.conftest import ServerProcess, ready, start_server, stop

WORDS = ("caf\u00e9", "\u20ac5", "\U0001f600", "na\u00efve", "a", "\u4e2d\u6587")
PROMPT = "caf\u00e9 \u20ac5 "
CHARS = 120  # bytes of a text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, its text, and its bundle."""
    folder, rng = tmp_path_factory.mktemp("bytes"), random.Random(0)
    text = folder / "text.txt"
    text.write_text("".join(" ".join(rng.choices(WORDS, k=6)) + "\n" for _ in range(600)), "utf-8")
    sizes = ("--layers", "1", "--hidden", "48", "--embedding", "16", "--batch", "16", "--sequence", "32")
    flags = ("--vocabulary", "bytes", "--steps", "150", "--learning-rate", "0.01", "--precision", "fp32")
    assert train(["--data", str(text), "--out", str(folder / "run"), *sizes, *flags]) == 0
    assert export([str(folder / "run"), "--out", str(folder / "models" / "bytes"), "--precision", "fp32"]) == 0
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Trained:
    return load(folder / "run")


@pytest.fixture(scope="module")
def bytes_server(folder: Path) -> Iterator[ServerProcess]:
    process = start_server(folder / "models", "--precision", "fp32")
    yield ready(process)
    stop(process)


@pytest.fixture
def stub(bytes_server: ServerProcess) -> Iterator[rpc.TextGenerationStub]:
    with grpc.insecure_channel(bytes_server.address) as channel:
        yield rpc.TextGenerationStub(channel)


def request(**fields: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(**{"prompt": PROMPT, "seed": 3, "max_chars": CHARS, **fields})  # type: ignore[arg-type]


def read(stub: rpc.TextGenerationStub, asked: pb.GenerateRequest) -> tuple[str, bytes, list[pb.GenerateResponse]]:
    messages = list(stub.Generate(asked))
    return "".join(message.text for message in messages), b"".join(message.raw for message in messages), messages


def whole(raw: bytes) -> str:
    """Its characters but for one at the end that is not complete."""
    return CharacterDecoder("bytes").push(raw.decode("latin-1"))


def test_the_bytes_are_those_of_torch_and_the_text_is_their_characters(
    stub: rpc.TextGenerationStub, trained: Trained
) -> None:
    text, raw, messages = read(stub, request())
    parts = (trained.model, trained.vocabulary, trained.start_text)
    assert raw.decode("utf-8", "replace") == generate(*parts, PROMPT, CHARS, seed=3)
    assert len(raw) == messages[-1].finish.generated_chars == CHARS  # all counts are of bytes
    assert messages[-1].finish.prompt_chars == len(PROMPT.encode())
    assert text == whole(raw)
    assert sum(ord(char) > 127 for char in text) > 10


def test_no_message_has_a_piece_of_a_character(stub: rpc.TextGenerationStub) -> None:
    asked = request(echo=True, chunking=pb.Chunking(max_chars=1))
    text, raw, messages = read(stub, asked)
    assert {len(message.raw) for message in messages} <= {0, 1}
    echo = [message for message in messages if message.raw][: len(PROMPT.encode())]
    assert [message.text for message in echo if message.text] == list(PROMPT)
    assert raw.startswith(PROMPT.encode())
    assert text == whole(raw)


@pytest.mark.parametrize("echo", [False, True])
def test_a_text_goes_on_after_any_byte(stub: rpc.TextGenerationStub, echo: bool) -> None:
    text, raw, _ = read(stub, request(echo=echo))
    for cut in range(0, len(raw), 7 if echo else 5):
        rest, after, _ = read(stub, request(echo=echo, received_raw=raw[:cut]))
        assert after == raw[cut:]
        assert whole(raw[:cut]) + rest == text


def test_a_token_stands_after_any_byte(stub: rpc.TextGenerationStub) -> None:
    text, raw, _ = read(stub, request())
    for cut in range(1, 40, 3):
        begin, before, messages = read(stub, request(max_chars=cut, return_token=True))
        token = messages[-1].finish.resume_token
        again = pb.GenerateRequest(resume_token=token, max_chars=CHARS - cut)
        rest, after, _ = read(stub, again)
        assert (before + after, begin + rest) == (raw, text)
        again.received_raw = after[:10]
        assert read(stub, again)[0] == rest[len(whole(before + after[:10])) - len(whole(before)) :]


def test_a_stop_string_is_text(stub: rpc.TextGenerationStub) -> None:
    whole_text, _, _ = read(stub, request())
    stop_string = next(char for char in "\U0001f600\u20ac\u4e2d\u00e9" if char in whole_text)
    text, raw, messages = read(stub, request(stop=[stop_string, "\u00df"]))
    assert text == whole(raw) == whole_text[: whole_text.index(stop_string)]
    assert messages[-1].finish.stop == stop_string


def test_alternatives_are_bytes_and_allowed_ones_are_those_of_the_characters(stub: rpc.TextGenerationStub) -> None:
    asked = request(logprobs=2, sampling=pb.Sampling(allowed="\u00e9a "))
    _, raw, messages = read(stub, asked)
    assert set(raw) == set("\u00e9a ".encode())
    chosen = [value for message in messages for value in message.logprobs.chosen]
    places = [place for message in messages for place in message.logprobs.alternatives]
    assert len(chosen) == len(places) == len(raw)
    assert all(ord(char) < 256 for place in places for char in place.chars)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"received": "a", "received_raw": b"a"}, "received_raw: is the same text as `received`"),
        ({"sampling": pb.Sampling(bias=pb.Bias(of={"\u20ac": 1.0}))}, "sampling.bias: .* which is 3 bytes"),
        ({"n": 2, "received_raw": b"a"}, "received_raw: is for one continuation"),
    ],
)
def test_what_bytes_cannot_have_is_named(stub: rpc.TextGenerationStub, fields: dict[str, object], words: str) -> None:
    with pytest.raises(grpc.RpcError, match=words):
        read(stub, request(**fields))


def test_a_model_of_characters_takes_no_bytes(server: ServerProcess) -> None:
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError, match="is for models of bytes"):
        read(rpc.TextGenerationStub(channel), pb.GenerateRequest(received_raw=b"a"))


def test_the_client_goes_on_in_the_middle_of_a_character(bytes_server: ServerProcess) -> None:
    """Wherever it was interrupted: from its progress, with and without checkpoints."""
    options = {"seed": 3, "max_chars": CHARS, "max_chunk_chars": 1, "logprobs": 0}
    with Client(bytes_server.address) as client:
        with client.stream(PROMPT, **options) as stream:  # type: ignore[arg-type]
            text = stream.read()
            raw = stream.raw
        assert len(raw) == len(stream.logprobs) == CHARS
        for chunks in (1, 5, 30):
            with client.stream(PROMPT, checkpoint_chars=64, **options) as stream:  # type: ignore[arg-type]
                for _, _ in zip(range(chunks), stream, strict=False):
                    pass
                progress = stream._text.progress(0.0)
            assert progress
            with client.go_on(progress) as stream:
                assert stream.read() == text
                assert stream.raw == raw


def test_a_score_is_told_by_characters_and_is_that_of_the_evaluation(
    bytes_server: ServerProcess, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "text.txt"
    path.write_text(PROMPT * 40, "utf-8")
    capsys.readouterr()
    assert evaluate([str(folder / "run"), "--data", str(path), "--part", "all", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    with Client(bytes_server.address) as client, client.score(PROMPT * 40, part_chars=31) as stream:
        parts = list(stream)
        summary = stream.read()
    assert "".join(part.text for part in parts) == PROMPT * 40
    assert all(len(part.text) == len(part.logprobs) for part in parts)
    assert -np.sum([value for part in parts for value in part.logprobs]) == pytest.approx(summary.nats)
    assert summary.chars == len(PROMPT * 40)
    assert summary.nats / summary.chars == pytest.approx(expected["nats_per_character"], abs=1e-4)


def test_the_server_says_what_the_model_predicts(bytes_server: ServerProcess, server: ServerProcess) -> None:
    with Client(bytes_server.address) as client, Client(server.address) as other:
        assert [client.models()[0].unit, other.models()[0].unit] == ["bytes", "characters"]


@given(st.binary(max_size=12), st.integers(0, 12))
def test_characters_come_whole_however_the_bytes_are_cut(data: bytes, cut: int) -> None:
    symbols = data.decode("latin-1")
    one = CharacterDecoder("bytes")
    two = CharacterDecoder("bytes", symbols[:cut])
    assert one.push(symbols[:cut]) + two.push(symbols[cut:]) == whole(data)
    rest = partial_character("bytes", symbols)
    assert symbols.endswith(rest)
    assert whole(data) + rest.encode("latin-1").decode("utf-8", "replace") == data.decode("utf-8", "replace")


def _token_within_a_character(stub: rpc.TextGenerationStub) -> tuple[bytes, bytes]:
    """The token, and the text's bytes before it, the last of which is the first of a character."""
    _, raw, _ = read(stub, request())
    cut = next(place for place in range(1, CHARS) if raw[place - 1] >= 0xC0)
    _, before, messages = read(stub, request(max_chars=cut, return_token=True))
    return messages[-1].finish.resume_token, before


def test_after_a_token_within_a_character_only_bytes_say_what_was_received(stub: rpc.TextGenerationStub) -> None:
    """Its text begins with a character of which the token has the first byte: spelled anew, it would be there twice."""
    token, _ = _token_within_a_character(stub)
    again = pb.GenerateRequest(resume_token=token, max_chars=20)
    text, _, _ = read(stub, again)
    again.received = text[:1]
    with pytest.raises(
        grpc.RpcError, match="began in the middle of a character, where the token stands: use `received_raw`"
    ):
        read(stub, again)


def test_an_echoed_prompt_begins_the_text_wherever_the_token_stands(stub: rpc.TextGenerationStub) -> None:
    token, _ = _token_within_a_character(stub)
    text, raw, _ = read(stub, pb.GenerateRequest(resume_token=token, prompt="abc", echo=True, max_chars=20))
    assert raw.startswith(b"abc")
    assert text == whole(raw)


def test_json_has_every_byte(bytes_server: ServerProcess, capsys: pytest.CaptureFixture[str]) -> None:
    """Also those of a last character that is not complete."""
    with Client(bytes_server.address) as client:
        for chars in range(1, 12):
            with client.stream(PROMPT, seed=3, max_chars=chars, logprobs=0) as stream:
                print_json(stream)
                raw = stream.raw
            *chunks, finish = map(json.loads, capsys.readouterr().out.splitlines())
            assert b"".join(base64.b64decode(chunk["raw"]) for chunk in chunks) == raw
            assert sum(len(chunk["logprobs"]) for chunk in chunks) == finish["finish"]["generated_chars"] == chars


def test_a_finish_counts_the_prompts_bytes_after_a_checkpoint_too(bytes_server: ServerProcess) -> None:
    with Client(bytes_server.address) as client:
        with client.stream(PROMPT, seed=3, max_chars=CHARS, max_chunk_chars=8, checkpoint_chars=64) as stream:
            for _, _ in zip(range(12), stream, strict=False):
                pass
            progress = stream._text.progress(0.0)
        assert progress
        with client.go_on(progress) as stream:
            stream.read()
        assert stream.finish
        assert stream.finish.prompt_chars == len(PROMPT.encode())


def test_long_texts_of_long_characters_are_scored_in_parts_that_a_server_takes(folder: Path) -> None:
    text = "\u4e2d\u6587 caf\u00e9 " * 40
    server = ready(start_server(folder / "models", "--precision", "fp32", "--max-prompt-chars", "100"))
    try:
        with Client(server.address) as client:
            assert sum(1 for part in client.score(text, part_chars=50) for _ in part.text) == len(text)
    finally:
        stop(server)
