"""Texts in a request's fields as tokens of the model."""

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest
from bundle.vocabulary import UnknownCharacter
from server.errors import InvalidField

__all__ = ["Tokens", "encode", "numbers_of"]

Tokens = NDArray[np.int64]


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
