"""What a caller may pass, and what it becomes in the message."""

import math
from typing import Any

import pytest

from client.wire import Received, request
from protos import charstream_pb2 as pb

NOTHING: dict[str, Any] = {
    "model": "",
    "max_chars": None,
    "temperature": None,
    "top_k": None,
    "top_p": None,
    "min_p": None,
    "seed": None,
    "stop": (),
    "max_chunk_chars": None,
    "max_chunk_delay": None,
}


def built(prompt: str = "a", **given: Any) -> pb.GenerateRequest:
    return request(prompt, **{**NOTHING, **given})


def test_what_is_not_given_is_left_to_the_server() -> None:
    message = built()
    assert not message.HasField("seed")
    assert not message.HasField("max_chars")
    assert not message.sampling.HasField("temperature")
    assert not message.chunking.HasField("max_delay")


def test_zero_is_sent_and_not_taken_for_nothing() -> None:
    message = built(seed=0, temperature=0.0, min_p=0.0, max_chunk_delay=0.0)
    assert message.sampling.HasField("min_p")
    assert not message.sampling.HasField("top_p")
    assert message.HasField("seed")
    assert message.sampling.HasField("temperature")
    assert message.chunking.HasField("max_delay")


def test_one_stop_string_is_not_taken_for_its_characters() -> None:
    assert list(built(stop="\n\n").stop) == ["\n\n"]
    assert list(built(stop=["a", "b"]).stop) == ["a", "b"]


@pytest.mark.parametrize(("seconds", "nanoseconds"), [(0.02, 20_000_000), (1.5, 1_500_000_000), (2.0, 2_000_000_000)])
def test_a_delay_in_seconds_arrives_exactly(seconds: float, nanoseconds: int) -> None:
    assert built(max_chunk_delay=seconds).chunking.max_delay.ToNanoseconds() == nanoseconds


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("seed", -1, "18446744073709551615"),
        ("seed", 2**64, "18446744073709551615"),
        ("max_chars", 0, "4294967295"),
        ("max_chars", 2**32, "4294967295"),
        ("max_chunk_chars", 0, "4294967295"),
        ("max_chunk_delay", math.nan, "315576000000"),
        ("max_chunk_delay", math.inf, "315576000000"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_value_and_range(name: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^{name}: .*{value}.*{allowed}"):
        built(**{name: value})


@pytest.mark.parametrize("given", [{"prompt": "a\ud800"}, {"stop": ["\udfff"]}, {"model": "\ud800"}])
def test_text_that_utf8_cannot_carry_is_refused_by_name(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(given))}: "):
        built(**given)


@pytest.mark.parametrize("temperature", [-1.0, math.nan, math.inf, 1e300])
def test_whether_a_temperature_makes_sense_is_the_servers_to_say(temperature: float) -> None:
    assert built(temperature=temperature).sampling.HasField("temperature")


def test_a_reason_from_a_newer_server_does_not_break_the_client() -> None:
    received = Received()
    received.take(pb.GenerateResponse(text="a", finish=pb.Finish(reason=99)))  # type: ignore[arg-type]
    assert received.finish is not None
    assert received.finish.reason == "unknown"
