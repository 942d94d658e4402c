"""Text files, read block by block, with errors of one line."""

import gzip
import io
import stat
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

from charstream.text import TextDecoder

__all__ = [
    "PLAIN",
    "CorpusError",
    "TextForm",
    "byte_blocks",
    "decode",
    "files_of",
    "hidden_files",
    "join",
    "repeated_files",
    "text_blocks",
]

_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"  # begins no text in UTF-8
_UNPACKING = (EOFError, zlib.error, gzip.BadGzipFile)

Read = Callable[[int], object]


class CorpusError(ValueError):
    """A text cannot be had or cannot be trained on; the message is one line that names the fault and its place."""


class TextForm(NamedTuple):
    """How a text is kept: the names of its files in a folder, and their encoding."""

    glob: str = "*.txt"
    encoding: str = "utf-8"


PLAIN = TextForm()


def files_of(path: Path, form: TextForm = PLAIN) -> list[Path]:
    """Return the files of a text: the file itself, or a folder's files that match, in sorted order.

    In a folder only files count, no names that begin with a dot, such as .ipynb_checkpoints, and each file once,
    whatever links lead to it.

    Raises:
        CorpusError: the folder has none, the pattern is none, or the path is a pipe or a device.
    """
    if not path.is_dir():
        _require_regular(path)
        return [path]
    files = list(_by_identity(path, form).values())
    if not files:
        kind = form.glob[1:] if form.glob.startswith("*.") else form.glob
        raise CorpusError(f"{path}: the folder holds no {kind} file; --glob takes others")
    return files


def hidden_files(path: Path, form: TextForm = PLAIN) -> list[Path]:
    """Return a folder's files that match and are passed over, as they or their folders have a name with a dot first."""
    return [file for file in _matching(path, form) if _is_hidden(file.relative_to(path))] if path.is_dir() else []


def repeated_files(path: Path, form: TextForm = PLAIN) -> list[Path]:
    """Return a folder's files that match and are passed over, as they are links to one that is the text already."""
    if not path.is_dir():
        return []
    kept = set(_by_identity(path, form).values())
    return [file for file in _matching(path, form) if not _is_hidden(file.relative_to(path)) and file not in kept]


def _by_identity(path: Path, form: TextForm) -> dict[tuple[int, int], Path]:
    """Return a folder's files by what they are on the disk, each under the first of its names."""
    found: dict[tuple[int, int], Path] = {}
    for file in _matching(path, form):
        if not _is_hidden(file.relative_to(path)):
            known = file.stat()
            found.setdefault((known.st_dev, known.st_ino), file)
    return found


def _matching(path: Path, form: TextForm) -> list[Path]:
    try:
        return sorted(file for file in path.rglob(form.glob) if file.is_file())
    except (ValueError, NotImplementedError) as error:
        raise CorpusError(f"--glob {form.glob}: no pattern of file names, such as '*.md' ({error})") from error


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _require_regular(path: Path) -> None:
    """Refuse what can be read only once, or has no end: a text is read twice, and again when a run goes on."""
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except OSError as error:
        raise CorpusError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if not regular:
        raise CorpusError(f"{path}: a pipe or a device, which cannot be read twice: write the text into a file first")


def text_blocks(path: Path, read: Read = lambda size: None, form: TextForm = PLAIN) -> Iterator[str]:
    """Yield the text of a file, or of a folder's files, each ended by a newline, block by block.

    A file in gzip's format is unpacked.

    Args:
        read: is given the size of every block of bytes that was read.

    Raises:
        CorpusError: not there, unreadable, or not in the encoding.
    """
    folder = path.is_dir()
    for file in files_of(path, form):
        last = yield from _file_blocks(file, read, form)
        if folder and last != "\n":
            yield "\n"


def byte_blocks(path: Path, read: Read = lambda size: None, form: TextForm = PLAIN) -> Iterator[bytes]:
    """Yield the text as UTF-8; of a file that is not in the encoding, its bytes as they are. See `text_blocks`."""
    folder = path.is_dir()
    for file in files_of(path, form):
        last = b""
        for block in _encoded_blocks(file, read, form) if _is_text(file, form) else _raw_blocks(file, read):
            yield block
            last = block[-1:]
        if folder and last != b"\n":
            yield b"\n"


def _encoded_blocks(file: Path, read: Read, form: TextForm) -> Iterator[bytes]:
    for block in _file_blocks(file, read, form):
        yield block.encode()


def _raw_blocks(file: Path, read: Read) -> Iterator[bytes]:
    with _open_unpacked(file) as stream:
        while block := stream.read(_BLOCK):
            yield block
            read(len(block))


def _is_text(file: Path, form: TextForm) -> bool:
    try:
        for _ in _file_blocks(file, lambda size: None, form):
            pass
    except _NotText:
        return False
    return True


def _file_blocks(file: Path, read: Read, form: TextForm) -> Generator[str, None, str]:
    """Yield a file's text; return its last character."""
    try:
        with _open_unpacked(file) as stream:
            return (yield from _blocks(stream, str(file), read, form.encoding))
    except _UNPACKING as error:
        raise CorpusError(f"{file}: not whole, or damaged: {error}") from error
    except OSError as error:
        raise CorpusError(f"{file}: {(error.strerror or str(error)).lower()}") from error


def _open_unpacked(file: Path) -> BinaryIO:
    stream = file.open("rb")
    packed = stream.read(len(_GZIP)) == _GZIP
    stream.seek(0)
    if not packed:
        return stream
    stream.close()
    return cast(BinaryIO, gzip.open(file))


def join(texts: Iterable[str]) -> str:
    """Join texts, each ended by a newline."""
    return "".join(text if text.endswith("\n") else text + "\n" for text in texts)


def decode(data: bytes, where: str) -> str:
    """Decode UTF-8 with or without a byte order mark; all kinds of line ends become newlines.

    Raises:
        CorpusError: names the first byte that is no UTF-8, its offset and its line.
    """
    return "".join(_blocks(io.BytesIO(data), where))


class _NotText(CorpusError):
    """Bytes that are not in the encoding."""


def _blocks(
    stream: BinaryIO, where: str, read: Read = lambda size: None, encoding: str = "utf-8"
) -> Generator[str, None, str]:
    """Yield the decoded blocks, as `decode` does; return the last character."""
    try:
        decoder = TextDecoder(encoding)
    except (LookupError, TypeError, ValueError) as error:
        raise CorpusError(f"--encoding {encoding}: no encoding of texts; utf-8, utf-16, cp1252 are some") from error
    last, size, ended = "", 0, False
    while not ended:
        data = stream.read(_BLOCK)
        size, ended = size + len(data), not data
        try:
            text = decoder.decode(data, final=ended)
            text.encode()  # some codecs make halves of characters
        except UnicodeDecodeError as error:
            # The bytes that the codec was decoding end where the stream stands.
            raise _not_text(stream, where, size - len(error.object) + error.start, encoding) from error
        except UnicodeError as error:
            raise _NotText(f"{where}: not {encoding}: {error}") from error
        if text:
            yield text
            last = text[-1]
        read(len(data))
    return last


def _not_text(stream: BinaryIO, where: str, offset: int, encoding: str) -> CorpusError:
    stream.seek(0)
    line, left = 1, offset
    while left:
        block = stream.read(min(left, _BLOCK))
        line, left = line + block.count(b"\n"), left - len(block)
    wrong = stream.read(1)[0]
    name, cure = ("UTF-8", "convert it to UTF-8 first, or name its") if encoding == "utf-8" else (encoding, "name its")
    return _NotText(
        f"{where}: not {name} at byte {offset:,} (line {line:,}): 0x{wrong:02x}; {cure} encoding by --encoding "
        "(cp1252 of old Windows texts), or train on bytes (--vocabulary bytes)"
    )
