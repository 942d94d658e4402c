"""`charstream data`: fetches a text if need be, checks it, and says what it is."""

import json
import sys
from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from bundle.vocabulary import Unit
from charstream.settings import Positional, Settings, fail, parse
from models.data.corpus import Corpus, open_corpus
from models.data.split import DEFAULT_SPLIT, PARTS
from models.data.text_files import PLAIN, CorpusError, TextForm

__all__ = ["DataSettings", "main"]

COMMAND = "charstream data"


class DataSettings(Settings):
    """Fetches a text to train on, checks it, and says what it is.

    Texts that come over the network are kept in the user's cache folder, or in $CHARSTREAM_CACHE.
    """

    data: Annotated[str, Positional()] = Field(
        min_length=1, description="shakespeare, tinyshakespeare, a text file, a folder of them, or a URL"
    )
    vocabulary: Unit = Field("characters", description="what is predicted: code points, or UTF-8 bytes")
    split: str = Field(
        DEFAULT_SPLIT, description="shares of training, validation and, if there is a third one, test, in this order"
    )
    glob: str = Field(PLAIN.glob, min_length=1, description="names of the files that a folder's text is in")
    encoding: str = Field(PLAIN.encoding, min_length=1, description="of the text's files, such as utf-16 or cp1252")
    json_: bool = Field(False, description="print it as JSON")


def describe(corpus: Corpus) -> dict[str, str | int]:
    """Return the facts of a text by name; sizes in symbols, which are characters or bytes."""
    return {
        "name": corpus.name,
        corpus.vocabulary.unit: len(corpus.ids),
        "distinct": len(corpus.vocabulary),
        "sha256": corpus.sha256,
        "path": str(corpus.path),
        **{part: len(getattr(corpus, part)) for part in PARTS},
    }


def main(argv: Sequence[str] | None = None) -> int:
    settings = parse(DataSettings, argv, command=COMMAND)
    try:
        form = TextForm(settings.glob, settings.encoding)
        corpus = open_corpus(settings.data, vocabulary=settings.vocabulary, split=settings.split, form=form)
        facts = describe(corpus)
    except CorpusError as error:
        fail(COMMAND, str(error))
    if settings.json_:
        print(json.dumps(facts))
        return 0
    for name, value in facts.items():
        print(f"{name:11}{value:,}" if isinstance(value, int) else f"{name:11}{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
