"""What no client of good will sends over a connection: endless streams of blocks of bytes."""

import random
import struct
from collections.abc import Callable, Iterator
from itertools import chain, count, repeat

from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    ExtensionFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from protos import charstream_pb2 as pb

__all__ = ["ABSURD", "ENDLESS_HEADERS", "FIELDS", "OPENING", "PREFACE", "Blocks", "garbage", "message", "resets"]

Blocks = Callable[[], Iterator[bytes]]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FIELDS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/charstream.v1.TextGeneration/Generate"),
    (":authority", "localhost"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
]
MANY = 500  # frames of a block
FRAME_BYTES = 16_384
CANCEL = 8
OPENING = PREFACE + SettingsFrame(0).serialize()  # what a client says first


def message(request: pb.GenerateRequest) -> bytes:
    """As gRPC sends it."""
    data = request.SerializeToString()
    return b"\0" + struct.pack(">I", len(data)) + data


def garbage() -> Iterator[bytes]:
    """Half of the connections begin as HTTP/2 does."""
    if random.random() < 0.5:
        yield OPENING
    while True:
        yield random.randbytes(4096)


def resets(request: pb.GenerateRequest, calls: int) -> bytes:
    """So many calls, each of which is given up at once."""
    frames = [OPENING]
    for n in range(1, 2 * calls, 2):
        data, reset = DataFrame(n, message(request), flags=["END_STREAM"]), RstStreamFrame(n, error_code=CANCEL)
        frames += [frame.serialize() for frame in (_headers(n), data, reset)]
    return b"".join(frames)


def _headers(stream: int) -> HeadersFrame:
    return HeadersFrame(stream, Encoder().encode(FIELDS), flags=["END_HEADERS"])


def _open_headers() -> bytes:
    """Without END_HEADERS: more must follow."""
    return HeadersFrame(1, Encoder().encode(FIELDS)).serialize()


def _again(*frames: Frame, first: bytes = b"") -> Blocks:
    """The frames over and over."""
    block = b"".join(frame.serialize() for frame in frames) * max(1, MANY // len(frames))
    return lambda: chain([OPENING + first], repeat(block))


def _once(*frames: Frame) -> Blocks:
    block = b"".join(frame.serialize() for frame in frames)
    return lambda: iter([OPENING + block])


def _raw(kind: int, stream: int, length: int, body: bytes, flags: int = 0) -> bytes:
    """A frame that says that it is so long, whatever it has."""
    return struct.pack(">I", length)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def _fresh_streams(*rest: Callable[[int], Frame]) -> Blocks:
    """Calls that never send their request, and what else shall follow on each stream."""

    def blocks() -> Iterator[bytes]:
        yield OPENING
        for first in count(1, 2 * MANY):
            streams = range(first, first + 2 * MANY, 2)
            frames = (frame for n in streams for frame in (_headers(n), *(make(n) for make in rest)))
            yield b"".join(frame.serialize() for frame in frames)

    return blocks


def _oversized() -> Iterator[bytes]:
    return chain([OPENING + _raw(0, 1, (1 << 24) - 1, b"")], repeat(bytes(FRAME_BYTES)))


def _huge_message() -> Iterator[bytes]:
    """A request that says that it has 4 GB."""
    start = _headers(1).serialize() + DataFrame(1, b"\0" + b"\xff" * 4).serialize()
    return chain([OPENING + start], repeat(DataFrame(1, bytes(FRAME_BYTES)).serialize()))


def _table_bomb() -> Iterator[bytes]:
    """One long field, then thousands of references of one byte to it."""
    literal = b"\x40\x01x" + b"\x7f\xa1\x1e" + b"a" * 4000
    for stream in count(1, 2):
        block = (literal if stream == 1 else b"") + b"\xbe" * (FRAME_BYTES - len(literal) - 64)
        yield (OPENING if stream == 1 else b"") + _headers_of(stream, block)


def _headers_of(stream: int, block: bytes) -> bytes:
    return HeadersFrame(stream, block, flags=["END_HEADERS"]).serialize()


def _bad_hpack() -> Iterator[bytes]:
    block = random.choice([b"\xff" * 200, b"\x80", b"\x40\x7f" + b"\xff" * 10, random.randbytes(300)])
    return iter([OPENING + _headers_of(1, block)])


ABSURD: dict[str, Blocks] = {
    "settings of 2,700 entries": lambda: chain(
        [OPENING], repeat(_raw(4, 0, 16_380, struct.pack(">HI", 0x77, 1) * 2730))
    ),
    "settings flood": _again(SettingsFrame(0, settings={4: 65_535})),
    "settings that turn": _again(SettingsFrame(0, settings={4: 0}), SettingsFrame(0, settings={4: 2**31 - 1})),
    "impossible settings": _once(SettingsFrame(0, settings={5: 1})),
    "settings answers": _again(SettingsFrame(0, flags=["ACK"])),
    "ping flood": _again(PingFrame(0, b"\0" * 8)),
    "ping answers": _again(PingFrame(0, b"\0" * 8, flags=["ACK"])),
    "priority flood": _again(*(PriorityFrame(n, depends_on=0, stream_weight=n % 256) for n in range(1, MANY, 2))),
    "depends on itself": _once(PriorityFrame(1, depends_on=1)),
    "window overflow": _again(WindowUpdateFrame(0, window_increment=2**31 - 1)),
    "window of a byte": _again(WindowUpdateFrame(0, window_increment=1)),
    "empty data": _again(DataFrame(1, b""), first=_headers(1).serialize()),
    "padding": _again(DataFrame(1, b"", pad_length=255, flags=["PADDED"]), first=_headers(1).serialize()),
    "data of no stream": _again(DataFrame(99, b"x" * 100)),
    "oversized frame": _oversized,
    "message of 4 GB": _huge_message,
    "resets of no stream": _again(RstStreamFrame(1, error_code=CANCEL)),
    "headers then reset": _fresh_streams(lambda n: RstStreamFrame(n, error_code=CANCEL)),
    "headers then bad window": _fresh_streams(lambda n: WindowUpdateFrame(n, window_increment=2**31 - 1)),
    "calls without requests": _fresh_streams(),
    "bad HPACK": _bad_hpack,
    "table bomb": _table_bomb,
    "unknown frames": _again(ExtensionFrame(type=0xEE, stream_id=0, body=b"x" * 50)),
    "goodbye flood": _again(GoAwayFrame(0, last_stream_id=0)),
    "push by a client": _once(PushPromiseFrame(1, promised_stream_id=2)),
    "continuation of nothing": _once(ContinuationFrame(1, b"")),
}

ENDLESS_HEADERS: dict[str, Blocks] = {
    "empty continuations": _again(ContinuationFrame(1, b""), first=_open_headers()),
    "new fields": lambda: chain(
        [OPENING + _open_headers()],
        (ContinuationFrame(1, _field(n)).serialize() for n in count()),
    ),
    "one field": lambda: chain(
        [
            OPENING + _open_headers(),
            ContinuationFrame(1, b"\x00\x01x\x7f\xff\xff\xff\xff\x07").serialize(),
        ],
        repeat(ContinuationFrame(1, b"a" * FRAME_BYTES).serialize()),
    ),
    "a byte at a time": lambda: chain([OPENING + _open_headers()], repeat(ContinuationFrame(1, b"\x82").serialize())),
}


def _field(n: int) -> bytes:
    """Literal fields that enter no table."""
    name = f"x-{n}".encode()
    return (b"\x00" + bytes([len(name)]) + name + b"\x64" + b"a" * 100) * 100
