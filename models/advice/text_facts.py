"""The facts of a text by which one sees what could be learnt from it."""

import bz2
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import Unit, singular
from models.data.corpus import Corpus

__all__ = ["TextFacts", "guessing_nats", "look_at_text"]

PIECES, PIECE = 4, 100_000  # symbols: pieces of one length, as bz2 finds more in longer ones
LINES_OF = 5_000_000  # symbols of the text's beginning whose lines are looked at
SHORT = 20  # characters: shorter lines repeat themselves in any text


class TextFacts(NamedTuple):
    """Sizes in symbols, and how regular the text is.

    Attributes:
        packed: bz2's size of pieces of the text, in nats a symbol; at most that of guessing, which bz2's head is
            beyond in a text of a few symbols.
        repeated: the share of the text in lines of 20 characters and more that came before.
    """

    unit: Unit
    symbols: int
    training: int
    distinct: int
    packed: float
    repeated: float

    def __str__(self) -> str:
        return (
            f"{self.symbols:,} {self.unit}, {self.training:,} of them to train on, {self.distinct:,} different; "
            f"bz2 needs {self.packed:.2f} nats a {singular(self.unit)}; "
            f"{self.repeated:.1%} is in lines that come again"
        )


def look_at_text(corpus: Corpus) -> TextFacts:
    """Return the facts of a text; of a large one parts are looked at."""
    symbols, unit = len(corpus.ids), corpus.vocabulary.unit
    distinct = len(corpus.vocabulary)
    packed = min(_packed(corpus), guessing_nats(distinct))
    return TextFacts(unit, symbols, len(corpus.training), distinct, packed, _repeated(corpus))


def guessing_nats(distinct: int) -> float:
    """Return the loss of one who guesses among as many symbols, all alike; of a single one as of two."""
    return math.log(max(2, distinct))


def _packed(corpus: Corpus) -> float:
    stride = max(PIECE, len(corpus.ids) // PIECES)
    pieces = [corpus.ids[first : first + PIECE] for first in range(0, len(corpus.ids), stride)][:PIECES]
    size = sum(len(bz2.compress(_utf8(corpus, piece))) for piece in pieces)
    return size * 8 * math.log(2) / sum(map(len, pieces))


def _repeated(corpus: Corpus) -> float:
    seen, again, whole = set[bytes](), 0, _utf8(corpus, corpus.ids[:LINES_OF])
    for line in whole.splitlines():
        if len(line) >= SHORT:
            again += len(line) * (line in seen)
            seen.add(line)
    return again / max(1, len(whole))


def _utf8(corpus: Corpus, ids: NDArray[np.integer]) -> bytes:
    symbols = corpus.vocabulary.tokens_to_symbols(ids)
    return symbols.encode("latin-1" if corpus.vocabulary.unit == "bytes" else "utf-8")
