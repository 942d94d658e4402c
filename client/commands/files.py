"""Files of the commands. One that cannot be read raises ValueError with the flag and the file."""

import os
import sys
import tempfile
from pathlib import Path

from charstream.text import decode_text

__all__ = ["STDIN", "read_bytes", "read_text", "replace"]

STDIN = Path("-")


def read_bytes(path: Path, flag: str = "") -> bytes:
    if path == STDIN:
        return sys.stdin.buffer.read() if sys.stdin else b""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{flag and flag + ': '}{path}: {error.strerror}") from None


def read_text(path: Path, flag: str = "") -> str:
    """Return the file's text as training reads it: no byte order mark, newlines as line ends."""
    try:
        return decode_text(read_bytes(path, flag))
    except UnicodeDecodeError as error:
        raise ValueError(f"{flag and flag + ': '}{path}: is not UTF-8 at byte {error.start}") from None


def replace(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all, readable by its owner only. Raises OSError."""
    path = path.resolve()
    if path.exists() and not path.is_file():  # such as /dev/null: written to, never replaced
        path.write_bytes(content)
        return
    descriptor, new = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(new, path)
    except BaseException:
        os.unlink(new)
        raise
