"""The vocabulary of a model from elsewhere: from a file of the user's, or from the checkpoint itself."""

import json
import reprlib
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from bundle.vocabulary import Vocabulary
from models.runs.foreign.errors import StateDictError
from models.runs.foreign.safe_load import load_content
from models.runs.foreign.unpickler import load_harmless_pickle

__all__ = ["ForeignVocabulary", "from_checkpoint", "from_file"]

# The names that trainers give to a vocabulary, by how much they say: characters in order, or with numbers.
_NAMES = (
    "tokens", "itos", "stoi", "chars", "characters", "all_characters", "symbols", "alphabet", "vocab", "vocabulary",
    "idx2char", "char2idx", "int2char", "char2int", "ix_to_char", "char_to_ix", "idx_to_char", "char_to_idx",
    "index_to_char", "char_to_index", "id2char", "char2id", "i2c", "c2i", "int_to_char", "char_to_int",
    "idx2item", "item2idx", "token_to_id", "id_to_token", "token2idx", "idx2token",
)  # fmt: skip
_PADDING = {"", "<pad>", "[pad]", "xxpad"}
# What stands for a symbol that is no character: the character that Unicode has for it.
_START, _END, _UNKNOWN = "\x02", "\x03", "\N{REPLACEMENT CHARACTER}"
_SPECIAL = {
    **dict.fromkeys(("<bos>", "<sos>", "<s>", "<start>", "<go>", "[bos]", "xxbos"), _START),
    **dict.fromkeys(("<eos>", "</s>", "<end>", "<stop>", "[eos]", "xxeos"), _END),
    **dict.fromkeys(("<unk>", "<oov>", "[unk]", "xxunk"), _UNKNOWN),
}
_PICKLE, _ZIP = b"\x80", b"PK\x03\x04"
_DEPTH = 2  # of dictionaries within each other
_VALUES = (Mapping, list, tuple, str)


class ForeignVocabulary(NamedTuple):
    """The vocabulary of a model from elsewhere.

    Attributes:
        padding: which of the model's numbers is of a symbol that only fills up (None without one).
        start: the character that stands for a symbol before every text ("" without one).
        remarks: on symbols that are no characters, for people.
    """

    vocabulary: Vocabulary
    padding: int | None = None
    start: str = ""
    remarks: tuple[str, ...] = ()


def from_file(file: Path, data: bytes) -> list[ForeignVocabulary]:
    """Return the vocabulary of a file; of a text that ends in a newline, perhaps an editor's, also the one without it.

    Args:
        data: a JSON list or object, a text of each character once, a pickle such as nanoGPT's meta.pkl, or a file of
            torch.save.

    Raises:
        StateDictError: it is none of them.
    """
    if data.startswith(_PICKLE):
        return [_of_value(file, load_harmless_pickle(file, data))]
    if data.startswith(_ZIP):
        return [_of_value(file, load_content(file, data).content)]
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
    """Return the vocabulary that a trainer saved beside the weights, by its name or its form; None if there is none.

    Raises:
        StateDictError: there are several that differ.
    """
    for values in (_named_values(content), _mappings_of_characters(content)):
        found = {}
        for name, value in values:
            try:
                found[name] = _of_value(file, value)
            except StateDictError:
                continue  # the word is another thing's, such as the number of characters
        distinct = set(found.values())
        if len(distinct) > 1:
            raise StateDictError(f"{file}: holds several vocabularies, {', '.join(found)}: --vocabulary decides")
        if distinct:
            return distinct.pop()
    return None


def _of_value(file: Path, value: Any) -> ForeignVocabulary:
    """Return the vocabulary in a value: characters in order, characters with numbers, or either under a known name."""
    nested = dict(_named_values(value)) if isinstance(value, (Mapping, Namespace)) else {}
    found = {_of_value(file, inner) for inner in nested.values() if isinstance(inner, _VALUES)}
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
    what = "an object without them" if isinstance(value, Namespace) else type(value).__name__
    raise StateDictError(f"{file}: found {what}, expected the characters in order, or with numbers")


def _named_values(content: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield what stands under one of the names of vocabularies, in dictionaries and objects."""
    for name, value in _values(content, depth):
        if name in _NAMES and isinstance(value, _VALUES):
            yield name, value
        else:
            yield from _named_values(value, depth + 1)


def _mappings_of_characters(content: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the dictionaries that give numbers to more than one character, or the other way round."""
    for name, value in _values(content, depth):
        if (
            isinstance(value, Mapping)
            and len(value) > 1
            and (_are_characters(value) or _are_characters(value.values()))
        ):
            yield name, value
        else:
            yield from _mappings_of_characters(value, depth + 1)


def _values(content: Any, depth: int) -> Iterator[tuple[str, Any]]:
    """Yield names and values of a dictionary or an object, and of a pair such as a state dict and a vocabulary."""
    if isinstance(content, tuple) and depth == 0:
        content = dict(enumerate(content))
    if isinstance(content, Namespace):
        content = vars(content)
    if isinstance(content, Mapping) and depth <= _DEPTH:
        yield from ((str(name), value) for name, value in content.items())


def _are_characters(values: Iterable[Any]) -> bool:
    return all(isinstance(value, str) and (len(value) == 1 or value.lower() in _SPECIAL) for value in values)


def _vocabulary(file: Path, content: Sequence[Any]) -> ForeignVocabulary:
    names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in content]
    is_text = [isinstance(name, str) for name in names]
    padding = next((n for n, name in enumerate(names) if is_text[n] and name.lower() in _PADDING), None)
    kept = [name for place, name in enumerate(names) if place != padding]
    special = {name: _SPECIAL[name.lower()] for name in kept if isinstance(name, str) and name.lower() in _SPECIAL}
    chars = [special.get(name, name) if isinstance(name, str) else name for name in kept]
    for char in chars:
        if not isinstance(char, str) or len(char) != 1 or "\ud800" <= char <= "\udfff":
            raise StateDictError(
                f"{file}: found {reprlib.repr(char)}, expected single characters, in a JSON list or object or a text"
            )
    char, times = max(Counter(chars).items(), key=itemgetter(1), default=("", 1))
    if times > 1:
        raise StateDictError(f"{file}: the character {char!r} is there {times} times, expected once")
    try:
        vocabulary = Vocabulary("".join(chars))
    except ValueError as error:
        raise StateDictError(str(error)) from error
    start = _START if _START in special.values() else ""
    remarks = tuple(f"{name} is the character U+{ord(char):04X}" for name, char in special.items())
    return ForeignVocabulary(vocabulary, padding, start, remarks)


def _in_order(file: Path, numbers: Mapping[Any, Any]) -> list[Any]:
    """Return the characters of {"a": 0, "b": 1}, of {"0": "a"} or of {0: "a"}, in the order of their numbers.

    Where they begin at 1, as Keras' do, 0 is of padding.
    """
    if all(isinstance(char, str) and _is_number(number) for number, char in numbers.items()):
        numbers = {char: int(number) for number, char in numbers.items()}
    whole = all(type(number) is int for number in numbers.values())
    first = min(numbers.values(), default=0) if whole else 0
    if not whole or first not in (0, 1) or sorted(numbers.values()) != [*range(first, first + len(numbers))]:
        raise StateDictError(f"{file}: expected the numbers 0 to {len(numbers) - 1}, each once")
    return [""] * first + sorted(numbers, key=numbers.__getitem__)


def _is_number(key: Any) -> bool:
    return type(key) is int or (isinstance(key, str) and key.isdecimal())
