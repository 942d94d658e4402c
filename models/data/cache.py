"""The user's cache folder: fetched texts, each beside its sha256; every file is written whole or not at all."""

import functools
import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, cast

import platformdirs

from models.atomic_files import replacement
from models.data.text_files import CorpusError
from models.terminal import say

__all__ = ["STDIN", "cache_folder", "fetch_once", "is_spooled", "make_place", "open_to_replace", "spool"]

VARIABLE = "CHARSTREAM_CACHE"
STDIN = "stdin"


def cache_folder() -> Path:
    """Return $CHARSTREAM_CACHE, or charstream in the folder that the system keeps for caches."""
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("charstream", appauthor=False))


def fetch_once(key: str, fetch: Callable[[BinaryIO], object], expected: str | None = None) -> Path:
    """Return the file of an entry; fetch it if it is not there, or is not what was fetched then.

    Args:
        key: the entry's name, fit for a file.
        fetch: writes the content into a file.
        expected: sha256 that the content must have, where it is known.

    Raises:
        CorpusError: what came has another sha256, or the folder cannot be written.
    """
    file = cache_folder() / f"{key}.txt"
    digest = file.with_suffix(".sha256")
    if not _is_intact(file, expected, digest):
        with open_to_replace(file) as stream:
            fetch(stream)
            stream.seek(0)
            got = _sha256(stream)
            if expected not in (None, got):
                raise CorpusError(f"{key}: what was fetched has the sha256 {got}, expected {expected}")
        with open_to_replace(digest) as stream:
            stream.write(got.encode())
    return file


@functools.cache  # this process reads it once, however often it opens the text
def spool(source: str) -> Path:
    """Return the entry with what comes through a pipe, or for "-" through standard input, named by its sha256.

    A text is read twice, and again when a run goes on, which a pipe cannot be.

    Raises:
        CorpusError: it cannot be read, or the folder cannot be written.
    """
    new = cache_folder() / f"{STDIN}-{os.getpid()}.txt"
    try:
        descriptor = os.dup(sys.stdin.fileno()) if source == "-" else os.open(source, os.O_RDONLY)
    except (AttributeError, OSError) as error:
        raise CorpusError(f"{source}: cannot be read: {error}") from error
    with open(descriptor, "rb") as pipe, open_to_replace(new) as stream:
        shutil.copyfileobj(pipe, stream)
        stream.seek(0)
        file = new.with_name(f"{STDIN}-{_sha256(stream)}.txt")
    new.replace(file)
    say(f"the text that came through {'standard input' if source == '-' else source} is kept in {file}")
    return file


def is_spooled(file: Path) -> bool:
    """Whether it is an entry of `spool`."""
    return file.suffix == ".txt" and re.fullmatch(STDIN + "-[0-9a-f]{64}", file.stem) is not None


@contextmanager
def open_to_replace(file: Path) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of `file` when the block ends well, and is gone if it does not.

    Raises:
        CorpusError: the folder cannot be written.
    """
    with make_place(file), replacement(file) as new, new.open("w+b") as stream:
        yield stream


@contextmanager
def make_place(file: Path) -> Iterator[None]:
    """Make the folder of a file that is written in the block.

    Raises:
        CorpusError: instead of OSError.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CorpusError(f"{file}: the cache cannot be written ({error.strerror}); set {VARIABLE}") from error


def _is_intact(file: Path, expected: str | None, digest: Path) -> bool:
    try:
        with file.open("rb") as stream:
            return _sha256(stream) == (expected or digest.read_text("ascii"))
    except (OSError, ValueError):
        return False


def _sha256(stream: BinaryIO) -> str:
    return hashlib.file_digest(cast(BufferedReader, stream), "sha256").hexdigest()
