"""Inputs of a surface as Hypothesis makes them: any bytes, changed seeds, and messages put together field by field."""

import math
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from benchmarks.fuzzing.surface import Surface

__all__ = ["LIGHT", "changed", "messages"]

# The same inputs in every run, none of which is stopped because the machine is slow.
LIGHT = settings(
    max_examples=400, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: st.integers(0, 4) | st.integers(-(2**31), 2**31 - 1),  # open: unknown ones are kept
}
# A float beyond 32 bits would be refused where the message is made. Hypothesis refuses to make subnormal ones where an
# earlier test of the process has made onnxruntime flush them to zero.
FLOATS = st.floats(width=32, allow_subnormal=False) | st.sampled_from([0.0, 1.0, 1e-45, -math.inf, math.nan])
TEXTS = st.text(max_size=4) | st.text("abc", max_size=30)


def changed(surface: Surface) -> st.SearchStrategy[bytes]:
    return st.binary(max_size=300) | st.builds(surface.input, st.integers(0, 2**32))


def messages(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Any message of that type: few fields, with any values."""
    fields = {field.name: _values(field) for field in kind.DESCRIPTOR.fields}
    chosen = st.sets(st.sampled_from(sorted(fields)), max_size=4) if fields else st.just(set())
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in sorted(names)})).map(
        lambda values: kind(**values)
    )


def _values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    entry = field.message_type and field.message_type.GetOptions().map_entry and field.message_type.fields_by_name
    if entry:
        return st.dictionaries(_one(entry["key"]), _one(entry["value"]), max_size=3)
    return st.lists(_one(field), max_size=4) if field.is_repeated else _one(field)


def _one(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    if field.message_type:
        return messages(field.message_type._concrete_class)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=80)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return TEXTS
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    return INTEGERS.get(field.cpp_type, FLOATS)
