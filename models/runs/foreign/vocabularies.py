"""The vocabulary of a model from elsewhere: from a file of the user's, or from the checkpoint itself."""

import json
import reprlib
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bundle.vocabulary import Vocabulary
from models.runs.foreign.errors import StateDictError
from models.runs.foreign.safe_load import load_harmless_pickle

__all__ = ["ForeignVocabulary", "from_checkpoint", "from_file"]

# The names that trainers give to a vocabulary, by how much they say: characters in order, or with numbers.
_NAMES = (
    "tokens", "itos", "stoi", "chars", "characters", "all_characters", "symbols", "alphabet", "vocab", "vocabulary",
    "idx2char", "char2idx", "int2char", "char2int", "ix_to_char", "char_to_ix", "idx_to_char", "char_to_idx",
    "index_to_char", "char_to_index", "id2char", "char2id", "i2c", "c2i", "int_to_char", "char_to_int",
)  # fmt: skip
_PADDING = {"", "<pad>", "<PAD>", "[PAD]"}
_PICKLE = b"\x80"
_DEPTH = 2  # of dictionaries within each other


class ForeignVocabulary(NamedTuple):
    """The vocabulary, and which of the model's numbers is of a symbol that only fills up (None without one)."""

    vocabulary: Vocabulary
    padding: int | None = None


def from_file(file: Path, data: bytes) -> list[ForeignVocabulary]:
    """Return the vocabulary of a file; of a text that ends in a newline, perhaps an editor's, also the one without it.

    Args:
        data: a JSON list or object, a text of each character once, or a pickle such as nanoGPT's meta.pkl.

    Raises:
        StateDictError: it is none of them.
    """
    if data.startswith(_PICKLE):
        return [_of_value(file, load_harmless_pickle(file, data))]
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise StateDictError(f"{file}: not UTF-8 at byte {error.start}, expected a text in UTF-8") from error
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, (dict, list)):
        return [_of_value(file, content)]
    ends = [text, text[:-1]] if text.endswith("\n") and len(text) > 1 else [text]
    return [_vocabulary(file, list(one)) for one in ends]


def from_checkpoint(file: Path, content: Any) -> ForeignVocabulary | None:
    """Return the vocabulary that a trainer saved beside the weights; None if there is none.

    Raises:
        StateDictError: there are several that differ.
    """
    found = {}
    for name, value in _named_values(content):
        try:
            found[name] = _of_value(file, value)
        except StateDictError:
            continue  # the word is another thing's, such as the number of characters or a class of one's own
    distinct = set(found.values())
    if len(distinct) > 1:
        raise StateDictError(f"{file}: holds several vocabularies, {', '.join(found)}: --vocabulary decides")
    return distinct.pop() if distinct else None


def _of_value(file: Path, value: Any) -> ForeignVocabulary:
    """Return the vocabulary in a value: characters in order, characters with numbers, or either under a known name."""
    nested = dict(_named_values(value)) if isinstance(value, Mapping) else {}
    found = {_of_value(file, inner) for inner in nested.values() if isinstance(inner, (Mapping, list, tuple, str))}
    if len(found) == 1:
        return found.pop()
    if found:
        raise StateDictError(f"{file}: {' and '.join(nested)} differ in the characters' order")
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping):
        return _of_value(file, value[1])  # as char-rnn-tensorflow saves them: the characters, and their numbers
    if isinstance(value, Mapping):
        return _vocabulary(file, _in_order(file, value))
    if isinstance(value, (str, list, tuple)):
        return _vocabulary(file, list(value))
    raise StateDictError(f"{file}: found {type(value).__name__}, expected the characters in order, or with numbers")


def _named_values(content: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield what stands under one of the names of vocabularies, in dictionaries and Namespaces."""
    if isinstance(content, Namespace):
        content = vars(content)
    if not isinstance(content, Mapping) or depth > _DEPTH:
        return
    for name, value in content.items():
        if name in _NAMES and isinstance(value, (Mapping, list, tuple, str)):
            yield name, value
        elif isinstance(value, (Mapping, Namespace)) and not _holds_tensors(value):
            yield from _named_values(value, depth + 1)


def _holds_tensors(value: Mapping[str, Any] | Namespace) -> bool:
    return isinstance(value, Mapping) and any(map(torch.is_tensor, value.values()))


def _vocabulary(file: Path, content: Sequence[Any]) -> ForeignVocabulary:
    padding = next((place for place, char in enumerate(content) if isinstance(char, str) and char in _PADDING), None)
    chars = [char for place, char in enumerate(content) if place != padding]
    for char in chars:
        if not isinstance(char, str) or len(char) != 1 or "\ud800" <= char <= "\udfff":
            raise StateDictError(
                f"{file}: found {reprlib.repr(char)}, expected single characters, in a JSON list or object or a text"
            )
    char, times = max(Counter(chars).items(), key=itemgetter(1), default=("", 1))
    if times > 1:
        raise StateDictError(f"{file}: the character {char!r} is there {times} times, expected once")
    try:
        return ForeignVocabulary(Vocabulary("".join(chars)), padding)
    except ValueError as error:
        raise StateDictError(str(error)) from error


def _in_order(file: Path, numbers: Mapping[Any, Any]) -> list[Any]:
    """Return the characters of {"a": 0, "b": 1}, of {"0": "a"} or of {0: "a"}, in the order of their numbers."""
    if all(isinstance(char, str) and _is_number(number) for number, char in numbers.items()):
        numbers = {char: int(number) for number, char in numbers.items()}
    if not all(type(number) is int for number in numbers.values()) or sorted(numbers.values()) != [
        *range(len(numbers))
    ]:
        raise StateDictError(f"{file}: expected the numbers 0 to {len(numbers) - 1}, each once")
    return sorted(numbers, key=numbers.__getitem__)


def _is_number(key: Any) -> bool:
    return type(key) is int or (isinstance(key, str) and key.isdecimal())
