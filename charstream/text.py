"""The one way in which files become text: the byte order mark is left out, all kinds of line ends become newlines."""

import codecs
import io

__all__ = ["TextDecoder", "decode_text"]


class TextDecoder:
    """Takes the bytes of a text as they come and returns its characters.

    Args:
        encoding: a codec of Python's for texts.

    Raises:
        LookupError: there is no such codec.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        name = codecs.lookup(encoding).name
        "".encode(name)  # raises for codecs that are not of texts, such as hex
        self._to_text = codecs.getincrementaldecoder("utf-8-sig" if name == "utf-8" else name)()
        self._to_newlines = io.IncrementalNewlineDecoder(None, translate=True)

    def decode(self, data: bytes, final: bool = False) -> str:
        """Return the characters that `data` completes. Raises UnicodeError."""
        return self._to_newlines.decode(self._to_text.decode(data, final), final)


def decode_text(data: bytes) -> str:
    """Return the text of a whole file in UTF-8. Raises UnicodeDecodeError, whose `start` counts from its first byte."""
    try:
        return TextDecoder().decode(data, final=True)
    except UnicodeDecodeError as error:
        error.start += len(data) - len(error.object)
        raise
