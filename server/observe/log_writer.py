"""Writes log lines to a file descriptor that may be slow, full or closed: serving goes on without them."""

import logging
import os
import select
import threading
from collections import deque
from itertools import accumulate

__all__ = ["LineHandler"]

log = logging.getLogger("charstream.logs")

# The most that waiting lines may take: a burst of some ten thousand calls.
WAITING_BYTES = 4 << 20
# How long the last lines of a process wait for somebody to read them.
FLUSH_SECONDS = 1.0
# Lines are collected before they are written: a write of each would ask for the interpreter lock each time.
COLLECT_SECONDS = 0.02


class LineHandler(logging.Handler):
    """Writes lines to the file descriptor `fd` in a thread of its own: a caller never waits, and nothing is raised.

    Attributes:
        lost: lines that were dropped, because too many waited or they could not be written. When writing works again,
            a line says how many.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.lost = 0
        self._fd, self._reported, self._torn = fd, 0, False  # lost lines reported; the last line is incomplete
        self._lines: deque[bytes] = deque()
        self._waiting = 0  # bytes, of lines that are being written too
        self._closed = False
        self._flushes = 0  # callers that wait in flush()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._line(record)
        except Exception:
            line = b""  # the call of the log is wrong, and nothing that is served
        with self._changed:
            if not line or self._closed or (self._waiting and self._waiting + len(line) > WAITING_BYTES):
                self.lost += 1
                return
            self._lines.append(line)
            self._waiting += len(line)
            if len(self._lines) == 1:
                self._changed.notify_all()

    def flush(self) -> None:
        """Wait until all is written, for FLUSH_SECONDS at most."""
        with self._changed:
            self._flushes += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._waiting, FLUSH_SECONDS)
            self._flushes -= 1

    def close(self) -> None:
        """End the thread when all is written; lines that come later are lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        super().close()

    def _line(self, record: logging.LogRecord) -> bytes:
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def _run(self) -> None:
        while lines := self._take():
            self._write(lines)
            with self._changed:
                self._waiting -= sum(map(len, lines))
                self._changed.notify_all()

    def _take(self) -> list[bytes]:
        """Return all lines that came within COLLECT_SECONDS; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closed)
            self._changed.wait_for(lambda: self._flushes or self._closed, COLLECT_SECONDS)
            lines = list(self._lines)
            self._lines.clear()
        return lines

    def _write(self, lines: list[bytes]) -> None:
        lost = self.lost
        head = (b"\n" if self._torn else b"") + (self._notice(lost - self._reported) if lost > self._reported else b"")
        data = head + b"".join(lines)
        written = self._write_bytes(data)
        if written:
            self._torn = data[written - 1 : written] != b"\n"
        if written >= len(head):
            self._reported = lost
        _, *ends = accumulate(map(len, lines), initial=len(head))
        with self._changed:
            self.lost += sum(end > written for end in ends)

    def _notice(self, lost: int) -> bytes:
        said = f"{lost} log lines were lost"
        return self._line(logging.LogRecord(log.name, logging.WARNING, __file__, 0, said, None, None))

    def _write_bytes(self, data: bytes) -> int:
        """Write as much as the descriptor takes; return how many bytes that was."""
        written = 0
        while written < len(data):
            try:
                written += os.write(self._fd, data[written:])
            except BlockingIOError:
                select.select([], [self._fd], [])
            except OSError:
                break
        return written
