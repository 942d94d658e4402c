"""An engine process: it loads one model, and runs its engine until the server closes the connection."""

import gc
import logging
import os
import select
import time
from collections import deque
from queue import Empty
from socket import socket
from threading import Lock
from typing import Any

from server.engine.engine import Engine
from server.engine.messages import Command, EngineObserver, Output
from server.processes.frames import (
    EngineReady,
    Event,
    LoadFailed,
    LoadOrder,
    LogLine,
    Ping,
    encode,
    read_frame,
    tick_frame,
)
from server.processes.lifetime import outlive_starter
from server.runtime.host_runner import runtime_version
from server.runtime.load import load

__all__ = ["main"]

# Where cores are few the event loop comes first: it has little to do, and all readers wait for it.
NICENESS = 5
# Events wait this many seconds for outputs with which they can go.
EVENT_SECONDS = 0.1
# Texts that wait, named at a time: another engine may have room for them.
NAMED_WAITING = 16


def main(descriptor: int) -> None:
    """Serve the connection that has this file descriptor."""
    os.nice(NICENESS)
    connection = Connection(socket(fileno=descriptor))
    logging.basicConfig(level=logging.INFO, handlers=[ServerLog(connection)])
    try:
        engine = _load(connection, connection.receive())
    except Exception as error:
        connection.fail(error)
        os._exit(1)
    engine.run()


def _load(connection: "Connection", order: LoadOrder) -> Engine:
    """Load the model, and return its engine, for this thread: see server/runtime/host_runner.py."""
    settings, manifest = order.settings, order.bundle.manifest
    loaded = load(order.bundle, settings)
    observer = Recorder(connection)

    def end(error: BaseException) -> None:
        connection.fail(error)
        os._exit(1)

    engine = observer.engine = Engine(
        loaded.store,
        manifest,
        chunk_delay=settings.chunk_seconds,
        prefix_bytes=settings.prefix_bytes,
        max_wait=settings.max_wait,
        deliver=observer.post,
        failed=end,
        observer=observer,
        commands=Commands(connection),
    )
    engine.warm_up()
    gc.collect()
    gc.freeze()  # no collection of garbage goes through what is there from the start
    outlive_starter()
    connection.send(EngineReady(loaded.precision, loaded.provider, loaded.device, loaded.numerics, runtime_version()))
    return engine


class Commands:
    """The commands that come over the connection, read by the engine's own thread when it wants some."""

    def __init__(self, connection: "Connection") -> None:
        self._connection, self._read = connection, deque[Command]()

    def put(self, command: Command, /) -> None:
        self._read.append(command)

    def get(self, block: bool = True) -> Command:
        """Return the next command: see `CommandSource`. Without a server there is nothing left to do here."""
        while not self._read:
            if not block and not self._connection.has_data():
                raise Empty
            try:
                received = self._connection.receive()
            except (EOFError, OSError):
                os._exit(0)
            if isinstance(received, Ping):
                self._connection.send(received)
            else:
                self._read.extend(received)
        return self._read.popleft()


class Connection:
    """The worker's end: any thread may send."""

    def __init__(self, connection: socket) -> None:
        self._connection, self._lock = connection, Lock()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def send(self, value: object) -> None:
        """Send a value; without a server there is nothing left to do here."""
        data = encode(value)
        try:
            with self._lock:
                self._connection.sendall(data)
        except OSError:
            os._exit(0)

    def receive(self) -> Any:
        """Return the next value. Raises EOFError when the server has closed the connection."""
        return read_frame(self._connection)

    def has_data(self) -> bool:
        """Return whether a value has begun to come, or the connection is closed."""
        return bool(self._poll.poll(0))

    def fail(self, error: BaseException) -> None:
        """Say why the process ends."""
        said = error if isinstance(error, Exception) else RuntimeError(repr(error))
        try:
            encode(said)
        except Exception:  # not every exception can be pickled
            said = RuntimeError(repr(error))
        self.send(LoadFailed(said))


class ServerLog(logging.Handler):
    """Sends lines to the server's log."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text = f"{text}\n{logging.Formatter().formatException(record.exc_info)}"
        self._connection.send(LogLine(record.name, record.levelno, text))


class Recorder(EngineObserver):
    """Sends outputs, and what the engine does, from the engine's thread; both in one frame where that is possible."""

    engine: Engine

    def __init__(self, connection: Connection) -> None:
        self._connection, self._events = connection, list[Event]()
        self._sent, self._held = time.monotonic(), (0, 0, 0)

    def post(self, outputs: list[Output]) -> None:
        self._sent = time.monotonic()
        events, self._events = self._events, []
        waiting = self.engine.queue_head(NAMED_WAITING)
        self._connection.send(tick_frame(outputs, events, waiting, self._sent))

    def on_wait(self, seconds: float) -> None:
        self._events.append(("on_wait", (seconds,)))

    def on_run(self, rows: int, steps: int, seconds: float, generated: int, forced: int) -> None:
        self._events.append(("on_run", (rows, steps, seconds, generated, forced)))

    def on_tick(self, rows: int, waiting: int, paused: int) -> None:
        holds = (rows, waiting, paused)
        if holds != self._held:
            self._held = holds
            self._events.append(("on_tick", holds))
        # What is left when the engine is about to wait has nothing to go with.
        if self._events and (not (rows or waiting) or time.monotonic() - self._sent > EVENT_SECONDS):
            self.post([])
