"""Fetched texts in the user's cache folder: each beside its sha256, each written whole or not at all."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import platformdirs

from bundle.manifest import sha256
from models.text import CorpusError

__all__ = ["cache_folder", "cached"]

VARIABLE = "CHARSTREAM_CACHE"


def cache_folder() -> Path:
    """$CHARSTREAM_CACHE, or charstream in the folder that the system keeps for caches."""
    return Path(os.environ.get(VARIABLE) or platformdirs.user_cache_dir("charstream", appauthor=False))


def cached(key: str, fetch: Callable[[], bytes], expected: str | None = None) -> Path:
    """The file of an entry; fetched if it is not there, or is not what was fetched then.

    Args:
        key: the entry's name, fit for a file.
        fetch: brings the content.
        expected: sha256 that the content must have, where it is known.

    Raises:
        CorpusError: what came has another sha256, or the folder cannot be written.
    """
    file = cache_folder() / f"{key}.txt"
    digest = file.with_suffix(".sha256")
    if not _intact(file, expected or _read(digest).decode("ascii", "replace")):
        data = fetch()
        got = sha256(data)
        if expected not in (None, got):
            raise CorpusError(f"{key}: what was fetched has the sha256 {got}, expected {expected}")
        _write(file, data)
        _write(digest, got.encode())
    return file


def _intact(file: Path, digest: str) -> bool:
    return sha256(_read(file)) == digest


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""


def _write(file: Path, data: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, prefix=f".{file.name}.", delete=False) as new:
            new.write(data)
        Path(new.name).replace(file)
    except OSError as error:
        raise CorpusError(f"{file}: the cache cannot be written ({error.strerror}); set {VARIABLE}") from error
