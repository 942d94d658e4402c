"""Prompts to try a model with: beginnings of lines of the text that it is not trained on."""

import re

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import Vocabulary

__all__ = ["sample_prompts"]

COUNT, MOST_CHARS, GOOD_CHARS = 3, 24, 6
_EXCERPT = 4_000  # symbols that are looked through for each prompt
# From a line's first letter or digit, without what means something else on a command line.
_BEGINNING = re.compile(r"\w[^\\\x00-\x1f\x7f\ufffd]*")


def sample_prompts(ids: NDArray[np.unsignedinteger], vocabulary: Vocabulary) -> tuple[str, ...]:
    """Return up to three different prompts from a part of a text, [N] numbers of symbols.

    Each is up to 24 characters from the beginning of a line, ended at a word's end where there is one. A text without
    letters and digits gives its first characters.
    """
    prompts: list[str] = []
    for number in range(COUNT):
        place = len(ids) * number // COUNT
        found = _prompts(vocabulary.decode(ids[place : place + _EXCERPT]))
        prompts += [prompt for prompt in found if prompt not in prompts][:1]
    return tuple(prompts)


def _prompts(excerpt: str) -> list[str]:
    lines = excerpt.splitlines()
    whole = lines[1:] or lines  # the first one was cut somewhere
    beginnings = [found[0].rstrip() for line in whole if (found := _BEGINNING.search(line))]
    good = [beginning for beginning in beginnings if len(beginning) >= GOOD_CHARS] or beginnings
    if good:
        return [_shorten(beginning) for beginning in good]
    signs = re.sub("[\0\ufffd]", "", excerpt)[:MOST_CHARS]
    return [signs] if signs else []


def _shorten(text: str) -> str:
    if len(text) <= MOST_CHARS:
        return text
    words = text[: MOST_CHARS + 1].rpartition(" ")[0]
    return words if len(words) >= GOOD_CHARS else text[:MOST_CHARS]
