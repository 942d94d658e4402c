"""Texts in a request's fields as tokens of the model."""

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest
from bundle.vocabulary import UnknownCharacter
from protos import charstream_pb2 as pb
from server.errors import InvalidField

__all__ = ["Tokens", "encode", "known_symbols", "numbers_of"]

Tokens = NDArray[np.int64]
# What an unknown character is replaced by: the first of these that the model knows, or else its start character.
REPLACEMENTS = ("\N{REPLACEMENT CHARACTER}", "?", " ")


def encode(field: str, text: str, manifest: Manifest) -> Tokens:
    """Return the tokens of a field's text. Raises InvalidField."""
    return numbers_of(field, manifest.vocabulary.text_to_symbols(text), manifest)


def numbers_of(field: str, symbols: str, manifest: Manifest) -> Tokens:
    """Return the tokens of a field's symbols. Raises InvalidField."""
    if not symbols:
        return np.empty(0, np.int64)  # most fields of most requests
    try:
        return manifest.vocabulary.symbols_to_tokens(symbols)
    except UnknownCharacter as error:
        raise InvalidField(field, f"{error} of {manifest.name}") from None


def known_symbols(text: str, unknown: pb.Unknown, manifest: Manifest) -> tuple[str, int]:
    """Return the symbols of a text, and how many of them were left out or replaced as `unknown` wants it.

    Those that stay unknown are for `numbers_of` to refuse. Raises InvalidField.
    """
    symbols = manifest.vocabulary.text_to_symbols(text)
    if unknown in (pb.UNKNOWN_UNSPECIFIED, pb.UNKNOWN_REFUSE):
        return symbols, 0
    if unknown not in pb.Unknown.values():
        raise InvalidField("unknown", f"is {unknown}, allowed are {', '.join(pb.Unknown.keys())}")
    missing = set(symbols).difference(manifest.symbols)
    count = sum(symbol in missing for symbol in symbols) if missing else 0
    return symbols.translate(dict.fromkeys(map(ord, missing), _replacement(unknown, manifest))), count


def _replacement(unknown: pb.Unknown, manifest: Manifest) -> str | None:
    if unknown == pb.UNKNOWN_SKIP:
        return None
    return next((symbol for symbol in REPLACEMENTS if symbol in manifest.symbols), manifest.start_text)
