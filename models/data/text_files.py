"""Text files, read block by block, with errors of one line."""

import codecs
import io
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["CorpusError", "decode", "files_of", "join", "text_blocks"]

_BLOCK = 1 << 20


class CorpusError(ValueError):
    """A text cannot be had or cannot be trained on; the message is one line that names the fault and its place."""


def files_of(path: Path) -> list[Path]:
    """Return the files of a text: the file itself, or a folder's .txt files in sorted order.

    Raises:
        CorpusError: the folder has none.
    """
    if not path.is_dir():
        return [path]
    files = sorted(path.rglob("*.txt"))
    if not files:
        raise CorpusError(f"{path}: the folder holds no .txt file")
    return files


def text_blocks(path: Path, read: Callable[[int], object] = lambda size: None) -> Iterator[str]:
    """Yield the text of a file, or of a folder's .txt files, each ended by a newline, block by block.

    Args:
        read: is given the size of every block of bytes that was read.

    Raises:
        CorpusError: not there, unreadable, or not UTF-8.
    """
    folder = path.is_dir()
    for file in files_of(path):
        try:
            with file.open("rb") as stream:
                last = yield from _blocks(stream, str(file), read)
        except OSError as error:
            raise CorpusError(f"{file}: {(error.strerror or str(error)).lower()}") from error
        if folder and last != "\n":
            yield "\n"


def join(texts: Iterable[str]) -> str:
    """Join texts, each ended by a newline."""
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def decode(data: bytes, where: str) -> str:
    """Decode UTF-8 with or without a byte order mark; all kinds of line ends become newlines.

    Raises:
        CorpusError: names the first byte that is no UTF-8, its offset and its line.
    """
    return "".join(_blocks(io.BytesIO(data), where))


def _blocks(
    stream: BinaryIO, where: str, read: Callable[[int], object] = lambda size: None
) -> Generator[str, None, str]:
    """Yield the decoded blocks, as `decode` does; return the last character."""
    bytes_to_text = codecs.getincrementaldecoder("utf-8-sig")()
    to_newlines = io.IncrementalNewlineDecoder(None, translate=True)
    last, size, ended = "", 0, False
    while not ended:
        data = stream.read(_BLOCK)
        size, ended = size + len(data), not data
        try:
            text = to_newlines.decode(bytes_to_text.decode(data, final=ended), final=ended)
        except UnicodeDecodeError as error:
            # The bytes that the codec was decoding end where the stream stands.
            raise _not_utf8(stream, where, size - len(error.object) + error.start) from error
        if text:
            yield text
            last = text[-1]
        read(len(data))
    return last


def _not_utf8(stream: BinaryIO, where: str, offset: int) -> CorpusError:
    stream.seek(0)
    line, left = 1, offset
    while left:
        block = stream.read(min(left, _BLOCK))
        line, left = line + block.count(b"\n"), left - len(block)
    wrong = stream.read(1)[0]
    return CorpusError(
        f"{where}: not UTF-8 at byte {offset:,} (line {line:,}): 0x{wrong:02x}; convert it to UTF-8 first"
    )
