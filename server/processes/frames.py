"""Frames between the server and an engine process: a length and a pickled value, over a pair of Unix sockets.

Both ends are the same program on the same machine, and nobody else has the sockets.
"""

import pickle
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from socket import socket
from typing import Any

from bundle.manifest import Precision
from bundle.read import Bundle
from server.engine.messages import Output
from server.settings import ServerSettings

__all__ = [
    "EngineReady",
    "FrameReader",
    "LoadFailed",
    "LoadOrder",
    "LogLine",
    "Ping",
    "TickFrame",
    "encode",
    "read_frame",
    "tick_frame",
]

_LENGTH = struct.Struct("<Q")

# What an engine's observer was told: the method's name and its arguments.
Event = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """The first frame to an engine process: what it loads, and how."""

    bundle: Bundle
    settings: ServerSettings


@dataclass(frozen=True, slots=True)
class EngineReady:
    """Says that the model is loaded; for the attributes see `server.catalog.loaded_model.ServedModel`.

    Engines that compare as equal compute the same: the device says how many threads do it, which is measured each time.
    """

    precision: Precision
    provider: str
    device: str = field(compare=False)
    numerics: str
    runtime: str


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """Says that the model cannot be loaded, or that the engine broke."""

    error: Exception


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line for the server's log."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks an engine for a sign of life, which is the same frame in return."""


@dataclass(frozen=True, slots=True)
class TickFrame:
    """A tick's outputs, by columns, which are cheap to pickle; and what the engine's observer was told.

    Attributes:
        streams, texts: of outputs that are nothing but text.
        others: all other outputs.
        events: what the observer was told, in its order.
        waiting: streams that wait for their first slot there, the oldest first; not all of them.
        posted: time.monotonic() when the frame was sent.
    """

    streams: list[int]
    texts: list[str]
    others: list[Output]
    events: list[Event]
    waiting: list[int]
    posted: float


def tick_frame(outputs: Sequence[Output], events: list[Event], waiting: list[int], posted: float) -> TickFrame:
    """Return the frame of a tick, with its outputs divided into the two kinds."""
    streams, texts, others = list[int](), list[str](), list[Output]()
    for output in outputs:
        if output.finish or output.scores or output.snapshot or output.state:
            others.append(output)
        else:
            streams.append(output.stream)
            texts.append(output.text)
    return TickFrame(streams, texts, others, events, waiting, posted)


def encode(value: object) -> bytes:
    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def read_frame(connection: socket) -> Any:
    """Return the next value. Raises EOFError if the other end is closed."""
    (length,) = _LENGTH.unpack(_read(connection, _LENGTH.size))
    return pickle.loads(_read(connection, length))


def _read(connection: socket, size: int) -> bytearray:
    data = bytearray(size)
    view, filled = memoryview(data), 0
    while filled < size:
        count = connection.recv_into(view[filled:])
        if not count:
            raise EOFError
        filled += count
    return data


class FrameReader:
    """Takes bytes as they come, and gives the values that are complete."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> Iterator[Any]:
        self._data += data
        begin, size = 0, _LENGTH.size
        while len(self._data) - begin >= size:
            (length,) = _LENGTH.unpack_from(self._data, begin)
            if len(self._data) - begin - size < length:
                break
            with memoryview(self._data) as view:
                value = pickle.loads(view[begin + size : begin + size + length])
            begin += size + length
            yield value
        del self._data[:begin]
