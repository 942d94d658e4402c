"""A text as an array of numbers in a file, encoded once into the user's cache folder and mapped from then on.

Beside the numbers lies a JSON file that describes their source. It names the file of the numbers and is written last:
so the file that it names is whole. A text that changed since is encoded anew, and takes the old one's place.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from bundle.vocabulary import ALL_BYTES, Unit, Vocabulary
from models.data.cache import cache_folder, open_to_replace
from models.data.text_files import (
    PLAIN,
    CorpusError,
    TextForm,
    byte_blocks,
    files_of,
    hidden_files,
    repeated_files,
    text_blocks,
)
from models.terminal import ProgressBar, say

__all__ = ["EncodedText", "encode_text"]

_FOLDER = "prepared"
_CODE_POINTS = 0x110000
_PASSES = 2

Codes = NDArray[np.unsignedinteger]
Blocks = Callable[[], Iterator[tuple[bytes, Codes]]]


@dataclass(frozen=True)
class EncodedText:
    """A text's symbols.

    Attributes:
        ids: their numbers, [N], mapped from a file and not writable: uint8, from 257 symbols on uint16, then uint32.
        start_text: the symbol before every text: a newline, or the most common character where there is none.
        sha256: of the text as UTF-8, newlines as line ends.
    """

    ids: Codes
    vocabulary: Vocabulary
    start_text: str
    sha256: str


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    unit: Unit
    symbols: str
    start_text: str
    length: int
    sha256: str
    ids: str

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.min_scalar_type(len(self.symbols) - 1)


def encode_text(path: Path, unit: Unit, form: TextForm = PLAIN) -> EncodedText:
    """Return the numbers of a text's symbols, from the cache if they are there.

    Args:
        path: a text file, or a folder of them.
        unit: what a symbol is. Of characters the vocabulary has those of the text, of bytes all 256.
        form: which files of a folder, and their encoding.

    Raises:
        CorpusError: the text cannot be read, is empty or is not in the encoding; the cache cannot be written.
    """
    name = " ".join([unit, str(path.resolve()), *(form if form != PLAIN else ())])
    key = hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:16]
    file = cache_folder() / _FOLDER / f"{key}.json"
    source = _digest_of_files(path, form)
    encoded = _open_encoded(file, source)
    if encoded is None:
        for why, files in (
            ("names with a dot first are hidden", hidden_files(path, form)),
            ("links lead to files that are in the text already", repeated_files(path, form)),
        ):
            if files:
                more = f" and {len(files) - 1:,} more" if len(files) > 1 else ""
                say(f"passed over, as {why}: {files[0]}{more}")
        encoded = _encode(file, path, unit, source, form)
    return encoded


def _digest_of_files(path: Path, form: TextForm) -> str:
    """Return a digest that changes when one of the text's files does."""
    try:
        found = [(str(file.relative_to(path)), file.stat()) for file in files_of(path, form)]
    except OSError as error:
        raise CorpusError(f"{error.filename or path}: {(error.strerror or str(error)).lower()}") from error
    facts = [(name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino) for name, stat in found]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _open_encoded(file: Path, source: str) -> EncodedText | None:
    """Return the encoded text; None if there is none, or one of another state of the text."""
    try:
        header = _Header.model_validate_json(file.read_bytes())
        ids = np.memmap(file.with_name(header.ids), header.dtype, "r")
    except (OSError, ValueError, ValidationError):
        return None
    if (header.source, header.length) != (source, len(ids)):
        return None
    vocabulary = Vocabulary(header.symbols, header.unit)
    # The plain array: every slice of a memmap would be a memmap, which is slow.
    return EncodedText(np.asarray(ids), vocabulary, header.start_text, header.sha256)


def _encode(file: Path, path: Path, unit: Unit, source: str, form: TextForm) -> EncodedText:
    size = sum(part.stat().st_size for part in files_of(path, form))
    with ProgressBar("prepare", "B", _PASSES * size) as bar:
        blocks = partial(_blocks, path, unit, bar.advance, form)
        header = _describe(blocks, path, unit, source, f"{file.stem}.{source[:16]}.ids")
        with open_to_replace(file.with_name(header.ids)) as stream:
            for numbers in _numbers(blocks, header):
                stream.write(numbers.data)
    if _digest_of_files(path, form) != source:
        raise CorpusError(f"{path}: was changed while it was read; wait until it is complete")
    with open_to_replace(file) as stream:
        stream.write(header.model_dump_json(indent=2).encode())
    for old in file.parent.glob(f"{file.stem}.*.ids"):
        if old.name != header.ids:
            old.unlink(missing_ok=True)
    encoded = _open_encoded(file, source)
    if encoded is None:
        raise CorpusError(f"{file}: was changed by another process; try again")
    return encoded


def _blocks(path: Path, unit: Unit, read: Callable[[int], object], form: TextForm) -> Iterator[tuple[bytes, Codes]]:
    """Yield the text's blocks as UTF-8, with the code points or bytes in each."""
    if unit == "bytes":
        for data in byte_blocks(path, read, form):
            yield data, np.frombuffer(data, np.uint8)
        return
    for block in text_blocks(path, read, form):
        yield block.encode(), np.frombuffer(block.encode("utf-32-le"), np.uint32)


def _describe(blocks: Blocks, path: Path, unit: Unit, source: str, ids: str) -> _Header:
    """Make the first pass: count each code, for the vocabulary, and digest the text."""
    counts, digest = np.zeros(_CODE_POINTS, np.int64), hashlib.sha256()
    for utf8, codes in blocks():
        digest.update(utf8)
        found = np.bincount(codes)
        counts[: len(found)] += found
    if not counts.any():
        raise CorpusError(f"{path}: empty; give a text, of a few thousand characters at least")
    return _Header(
        source=source,
        unit=unit,
        symbols=ALL_BYTES if unit == "bytes" else "".join(map(chr, np.flatnonzero(counts))),
        start_text="\n" if counts[ord("\n")] or unit == "bytes" else chr(counts.argmax()),
        length=int(counts.sum()),
        sha256=digest.hexdigest(),
        ids=ids,
    )


def _numbers(blocks: Blocks, header: _Header) -> Iterator[Codes]:
    """Make the second pass: yield the numbers of each block's symbols."""
    symbols = np.frombuffer(header.symbols.encode("utf-32-le"), np.uint32)
    number_of = np.zeros(_CODE_POINTS, header.dtype)
    number_of[symbols] = np.arange(len(symbols))
    for _, codes in blocks():
        yield number_of[codes]
