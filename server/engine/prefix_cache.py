"""Keeps the row states after prompts, so that a prompt that comes again need not run again.

It never changes a text: the bits of a state do not depend on how it was reached.
"""

from bisect import bisect_right, insort
from collections import Counter, OrderedDict
from hashlib import blake2b
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.engine.messages import RowState

__all__ = ["PrefixCache", "PrefixIndex"]

# Lengths that are tried for one prompt, the longest first.
MOST_LENGTHS = 256
# Bytes of an entry beside its numbers: of its key and objects, and of each array's object.
ENTRY_BYTES, ARRAY_BYTES = 512, 112


T = TypeVar("T")


class PrefixIndex(Generic[T]):
    """A value for each of the prompts that were used last, found by a text that begins with one."""

    def __init__(self) -> None:
        self._values: OrderedDict[bytes, tuple[int, T]] = OrderedDict()  # with the prompt's length
        self._lengths: list[int] = []  # sorted, each once
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._values)

    def put(self, prompt: NDArray[np.int64], value: T) -> bool:
        """Keep the value for the prompt; return whether it had none."""
        key = _key(prompt)
        is_new = key not in self._values
        if is_new:
            self._remember(len(prompt))
        self._values[key] = len(prompt), value
        self._values.move_to_end(key)
        return is_new

    def drop_oldest(self) -> None:
        """Forget the prompt that was not used for the longest time."""
        _, (length, _) = self._values.popitem(last=False)
        self._forget(length)

    def longest(self, prompt: NDArray[np.int64]) -> T | None:
        """Return the value of the longest known beginning of the prompt."""
        end = bisect_right(self._lengths, len(prompt))
        for key in reversed(_keys(prompt, self._lengths[max(0, end - MOST_LENGTHS) : end])):
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key][1]
        return None

    def _remember(self, length: int) -> None:
        if not self._counts[length]:
            insort(self._lengths, length)
        self._counts[length] += 1

    def _forget(self, length: int) -> None:
        self._counts[length] -= 1
        if not self._counts[length]:
            del self._counts[length]
            self._lengths.remove(length)


class PrefixCache:
    """The states after the prompts that were used last.

    Args:
        max_bytes: what all entries may take together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._states: PrefixIndex[RowState] = PrefixIndex()

    def __len__(self) -> int:
        return len(self._states)

    def put(self, prompt: NDArray[np.int64], state: RowState) -> None:
        """Keep the state after the whole prompt."""
        size = state.nbytes + ENTRY_BYTES + ARRAY_BYTES * len(state.state)
        if size > self.max_bytes:
            return
        if self._states.put(prompt, state):
            self.bytes += size
        while self.bytes > self.max_bytes:
            self._states.drop_oldest()
            self.bytes -= size

    def longest(self, prompt: NDArray[np.int64]) -> RowState | None:
        """Return the state after the longest known beginning of the prompt, whose length is the state's position."""
        return self._states.longest(prompt)


def _key(prompt: NDArray[np.int64]) -> bytes:
    return blake2b(prompt.tobytes(), digest_size=16).digest()


def _keys(prompt: NDArray[np.int64], lengths: list[int]) -> list[bytes]:
    """Return the key of each beginning, in the order of `lengths`, which ascend: one pass over the prompt."""
    state, begin, keys = blake2b(digest_size=16), 0, []
    for length in lengths:
        state.update(prompt[begin:length].tobytes())
        begin = length
        keys.append(state.copy().digest())
    return keys
