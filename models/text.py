"""Text files as they come, and what is wrong with them in one line."""

from collections.abc import Iterable
from pathlib import Path

__all__ = ["CorpusError", "decode", "join", "read_text"]


class CorpusError(ValueError):
    """A text cannot be had or cannot be trained on; the message is one line that says what and where."""


def read_text(path: Path) -> str:
    """The text of a file, or of a folder's .txt files in sorted order, each ended by a newline.

    Raises:
        CorpusError: not there, unreadable, or not UTF-8.
    """
    if not path.is_dir():
        return decode(_read(path), str(path))
    files = sorted(path.rglob("*.txt"))
    if not files:
        raise CorpusError(f"{path}: the folder holds no .txt file")
    return join(decode(_read(file), str(file)) for file in files)


def join(texts: Iterable[str]) -> str:
    """Texts one after another, each ended by a newline."""
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def decode(data: bytes, where: str) -> str:
    """UTF-8 with or without a byte order mark, any of the line ends, which become newlines.

    Raises:
        CorpusError: names the first byte that is no UTF-8, its offset and its line.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from after a byte order mark.
        offset = error.start + len(data) - len(error.object)
        line = data.count(b"\n", 0, offset) + 1
        raise CorpusError(
            f"{where}: not UTF-8 at byte {offset:,} (line {line:,}): 0x{data[offset]:02x}; convert it to UTF-8 first"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{path}: {(error.strerror or str(error)).lower()}") from error
