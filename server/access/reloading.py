"""Files that are read again when they change, while the server runs."""

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

__all__ = ["FileError", "Reloaded", "read", "read_secret"]

log = logging.getLogger("charstream.files")

LOOK_SECONDS = 1.0

T = TypeVar("T")


class FileError(ValueError):
    """A file cannot be read, or does not hold what it should; the message is one line."""


class Reloaded(Generic[T]):
    """The current content of files. Any thread may ask; then the files are looked at, once a second at most.

    Args:
        what: what the files are, for the log.
        take: reads the files at `paths`; raises FileError.

    Raises:
        FileError: the first reading failed. A later failure is logged, and the content that was read before stays.
    """

    def __init__(self, what: str, paths: Sequence[Path], take: Callable[[], T]) -> None:
        self._what, self._paths, self._take = what, paths, take
        self._lock = threading.Lock()
        self._seen = self._look()  # before the first reading: a change meanwhile is seen at the next look
        self._value = take()
        self._next = time.monotonic() + LOOK_SECONDS

    def current(self) -> T:
        with self._lock:
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + LOOK_SECONDS
                self._refresh()
            return self._value

    def _refresh(self) -> None:
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._value = self._take()
        except FileError as error:
            log.error("%s: %s; what was read before stays in use", self._what, error)
        else:
            log.info("%s: read again", self._what)

    def _look(self) -> list[tuple[int, ...] | None]:
        return [_version(path) for path in self._paths]


def _version(path: Path) -> tuple[int, ...] | None:
    """Return what changes with a file's content; None for what is no regular file: a pipe can be read only once."""
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    # The time of the last change of its mode, too: a file that could not be read may become readable.
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


def read(path: Path) -> bytes:
    """Return a file's content. Raises FileError, also for what is no regular file: its end might never come."""
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode) and not _is_handed_over(file.fileno()):
                raise FileError(f"{path}: is no regular file")
            os.set_blocking(file.fileno(), True)
            return file.read()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None


def _open_at_once(path: str, flags: int) -> int:
    """Open without waiting, even a named pipe to which nobody writes."""
    return os.open(path, flags | os.O_NONBLOCK)


def _is_handed_over(descriptor: int) -> bool:
    """Return whether this is a pipe without a name, as of `--tokens <(...)`: who started us writes to it, and ends."""
    return os.readlink(f"/proc/self/fd/{descriptor}").startswith("pipe:")


def read_secret(path: Path) -> bytes:
    """Return a file's content; warn if everybody on the machine can read it. Raises FileError."""
    content = read(path)
    try:
        found = path.stat()
    except OSError as error:
        raise FileError(f"{path}: {error.strerror}") from None
    if stat.S_ISREG(found.st_mode) and found.st_mode & stat.S_IROTH:
        log.warning("%s: every user of this machine can read it: chmod o-r would end that", path)
    return content
