"""Changes to valid inputs that a parser may trip over: of bytes, of messages field by field, of JSON value by value."""

import copy
import json
import math
from collections.abc import Iterator
from random import Random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["change_bytes", "change_json", "change_message", "change_text"]

INTEGERS = (0, 1, -1, 2, 20, 21, 63, 64, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**64 - 1, -(2**63))
FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-45, 1e-38, 1e-8, 100.0, 101.0, 3.4e38, 1e300, math.inf, -math.inf, math.nan)
TEXTS = ("", "a", "b\n", "\0", "\u00ef", "\u20ac", "\U0010ffff", "a" * 200, "\x1b[31m", "../../etc", "%s%n", '"', "\\")
MOST_CHANGES = 4

_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}


def change_bytes(data: bytes, rng: Random) -> bytes:
    """Return the bytes with bits flipped, and pieces taken out, doubled, or put in."""
    for _ in range(rng.randint(1, MOST_CHANGES)):
        begin, size = rng.randint(0, len(data)), rng.choice((1, 1, 2, 8, 64))
        head, piece, tail = data[:begin], data[begin : begin + size], data[begin + size :]
        changes = (b"", piece * 2, rng.randbytes(size) + piece, bytes(b ^ 1 << rng.randrange(8) for b in piece), piece)
        data = head + rng.choice(changes) + (tail if rng.random() < 0.95 else b"")
    return data


def change_text(text: str, rng: Random) -> str:
    place = rng.randint(0, len(text))
    return text[:place] + rng.choice(TEXTS) + text[place + rng.choice((0, 1, 8)) :]


def change_message(message: Message, rng: Random) -> Message:
    """Return a copy with some fields changed, at any depth."""
    changed = copy.deepcopy(message)
    for _ in range(rng.randint(1, MOST_CHANGES)):
        part = rng.choice(list(_parts(changed)))
        if part.DESCRIPTOR.fields:
            _change(part, rng.choice(part.DESCRIPTOR.fields), rng)
    return changed


def change_json(data: bytes, rng: Random) -> bytes:
    """Return JSON with some of its values changed, at any depth. Raises ValueError if it is no JSON."""
    root = {"": json.loads(data)}
    for _ in range(rng.randint(1, MOST_CHANGES)):
        holder = rng.choice(list(_holders(root)))
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if keys:
            _change_json(holder, rng.choice(keys), rng)
    return json.dumps(root.get("")).encode()


def _change_json(holder: Any, key: Any, rng: Random) -> None:
    """Take a value out, change it, or give it another key."""
    old, change = holder.pop(key), rng.random()
    if change > 0.2:
        key = change_text(key, rng) if isinstance(key, str) and change > 0.8 else key
        new = _json_value(old, rng)
        holder.insert(key, new) if isinstance(holder, list) else holder.update({key: new})


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


def _json_value(old: Any, rng: Random) -> Any:
    if isinstance(old, str) and rng.random() < 0.5:
        return change_text(old, rng)
    return rng.choice((*INTEGERS, *FLOATS, *TEXTS, None, True, [], {}, [old], {"a": old}, 10**30))


def _parts(message: Message) -> Iterator[Message]:
    """Yield the message, and all messages in it."""
    yield message
    for field, value in message.ListFields():
        if field.message_type and not _is_map(field):
            for inner in value if field.is_repeated else [value]:
                yield from _parts(inner)


def _is_map(field: FieldDescriptor) -> bool:
    return bool(field.message_type and field.message_type.GetOptions().map_entry)


def _change(part: Message, field: FieldDescriptor, rng: Random) -> None:
    value = getattr(part, field.name)
    if rng.random() < 0.1:
        part.ClearField(field.name)
    elif _is_map(field):
        key, entry = (field.message_type.fields_by_name[name] for name in ("key", "value"))
        value[_scalar(key, None, rng)] = _scalar(entry, None, rng)
    elif field.is_repeated:
        _change_repeated(value, field, rng)
    elif field.message_type:
        value.SetInParent()
    else:
        setattr(part, field.name, _scalar(field, value, rng))


def _change_repeated(values: Any, field: FieldDescriptor, rng: Random) -> None:
    if values and rng.random() < 0.4:
        del values[rng.randrange(len(values))]
    elif field.message_type:
        example = rng.choice(values) if values else None
        new = values.add()
        if example is not None:
            new.CopyFrom(example)
    elif values and rng.random() < 0.7:
        place = rng.randrange(len(values))
        values[place] = _scalar(field, values[place], rng)
    else:
        values.append(_scalar(field, None, rng))


def _scalar(field: FieldDescriptor, old: Any, rng: Random) -> Any:
    if field.cpp_type in _RANGES:
        least, most = _RANGES[field.cpp_type]
        near = [] if old is None else [old - 1, old + 1, 2 * old]
        return rng.choice([number for number in (*INTEGERS, *near) if least <= number <= most])
    if field.cpp_type in (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return rng.random() < 0.5
    if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
        return rng.choice(field.enum_type.values).number
    if field.type == FieldDescriptor.TYPE_BYTES:
        return change_bytes(old or rng.randbytes(rng.choice((0, 1, 40, 300))), rng)
    return change_text(old or "", rng)
