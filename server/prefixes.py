"""States after prompts, so that a prompt that comes again is not read again. It never changes a text: the bits of a
state do not depend on how it was reached."""

from collections import Counter, OrderedDict
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from server.rows import RowState

__all__ = ["Prefixes"]

# Lengths that are tried for one prompt, the longest first.
MOST_LENGTHS = 256
# Of an entry beside its state: key, objects.
ENTRY_BYTES = 512


class Prefixes:
    """The states after the prompts that were used last.

    Args:
        max_bytes: what all entries may take together; 0 keeps none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self._states: OrderedDict[bytes, RowState] = OrderedDict()
        self._lengths: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._states)

    def put(self, prompt: NDArray[np.int64], state: RowState) -> None:
        """Keeps the state after all of the prompt."""
        key = _key(prompt)
        size = state.nbytes + ENTRY_BYTES
        if size > self.max_bytes:
            return
        if key not in self._states:
            self.bytes += size
            self._lengths[len(prompt)] += 1
        self._states[key] = state
        self._states.move_to_end(key)
        while self.bytes > self.max_bytes:
            _, oldest = self._states.popitem(last=False)
            self.bytes -= size
            self._forget(oldest.position)

    def longest(self, prompt: NDArray[np.int64]) -> RowState | None:
        """The state after the longest beginning of the prompt that is known; its position says how long that is."""
        lengths = sorted((length for length in self._lengths if length <= len(prompt)), reverse=True)
        for key in reversed(_keys(prompt, lengths[:MOST_LENGTHS])):
            if key in self._states:
                self._states.move_to_end(key)
                return self._states[key]
        return None

    def _forget(self, length: int) -> None:
        self._lengths[length] -= 1
        if not self._lengths[length]:
            del self._lengths[length]


def _key(prompt: NDArray[np.int64]) -> bytes:
    return blake2b(prompt.tobytes(), digest_size=16).digest()


def _keys(prompt: NDArray[np.int64], lengths: list[int]) -> list[bytes]:
    """The key of each beginning, the shortest first: one pass over the prompt."""
    state, begin, keys = blake2b(digest_size=16), 0, []
    for length in sorted(lengths):
        state.update(prompt[begin:length].tobytes())
        begin = length
        keys.append(state.copy().digest())
    return keys
