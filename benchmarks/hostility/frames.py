"""Bytes that no client of good will sends over a connection, in endless streams of blocks."""

import random
import struct
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat

from hpack import Encoder
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from protos import charstream_pb2 as pb

__all__ = ["ABSURD", "FIELDS", "OPENING", "PREFACE", "Blocks", "endless_fields", "garbage", "message", "resets"]

Blocks = Callable[[], Iterator[bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OPENING = PREFACE + SettingsFrame(0).serialize()  # the first bytes of a client
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/charstream.v1.TextGeneration/Generate"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
MANY = 500  # frames in a block
FRAME_BYTES = 16_384
CANCEL = 8


def message(request: pb.GenerateRequest) -> bytes:
    """Return a request as gRPC sends it."""
    data = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(data)) + data


def garbage() -> Iterator[bytes]:
    """Yield random bytes; half of the connections begin as HTTP/2 does."""
    if random.random() < 0.5:
        yield OPENING
    while True:
        yield random.randbytes(4096)


def resets(request: pb.GenerateRequest, calls: int) -> bytes:
    """Return calls each of which is given up at once."""
    frames = [OPENING]
    for n in range(1, 2 * calls, 2):
        data, reset = DataFrame(n, message(request), flags=["END_STREAM"]), RstStreamFrame(n, error_code=CANCEL)
        frames += [frame.serialize() for frame in (_headers(n), data, reset)]
    return b"".join(frames)


def _headers(stream: int) -> HeadersFrame:
    return HeadersFrame(stream, Encoder().encode(FIELDS), flags=["END_HEADERS"])


def _repeat(frame: Frame, first: bytes = b"") -> Blocks:
    """Return the same frame over and over."""
    return lambda: chain([OPENING + first], repeat(frame.serialize() * MANY))


def _new_calls(follow: Callable[[int], bytes]) -> Blocks:
    """Return calls that never send their request; `follow` makes a frame after the headers of each."""

    def blocks() -> Iterator[bytes]:
        yield OPENING
        for first in count(1, 2 * MANY):
            yield b"".join(_headers(n).serialize() + follow(n) for n in range(first, first + 2 * MANY, 2))

    return blocks


def _huge_message() -> Iterator[bytes]:
    """Yield a request that claims to have 4 GB."""
    start = _headers(1).serialize() + DataFrame(1, b"\0" + b"\xff" * 4).serialize()
    return chain([OPENING + start], repeat(DataFrame(1, bytes(FRAME_BYTES)).serialize()))


def endless_fields() -> Iterator[bytes]:
    """Yield headers that never end, of literal fields that enter no table."""
    yield OPENING + HeadersFrame(1, Encoder().encode(FIELDS)).serialize()  # without END_HEADERS: more must follow
    for n in count():
        name = f"x-{n}".encode()
        fields = (b"\x00" + bytes([len(name)]) + name + b"\x64" + b"a" * 100) * 100
        yield ContinuationFrame(1, fields).serialize()


# Frames that cost the server's own limits something; what gRPC's core refuses by itself is its own tests' matter.
ABSURD: dict[str, Blocks] = {
    "ping flood": _repeat(PingFrame(0, b"\0" * 8)),
    "empty data": _repeat(DataFrame(1, b""), first=_headers(1).serialize()),
    "message of 4 GB": _huge_message,
    "headers then reset": _new_calls(lambda n: RstStreamFrame(n, error_code=CANCEL).serialize()),
    "calls without requests": _new_calls(lambda n: b""),
}
