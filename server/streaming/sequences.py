"""States that the server keeps for callers of single steps, by a number or name of theirs."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bundle.shape import ModelShape
from server.errors import InvalidField, Overloaded, SequenceNotFound
from server.runtime.step_runner import StepOutput
from server.streaming.steps import Steps

__all__ = ["Key", "Sequences", "capacity"]

FLOAT_BYTES = 4
# The sequences of which it is known why they are gone.
MOST_GONE = 100_000
Arrays = Sequence[NDArray[np.float32]]


def capacity(shape: ModelShape, memory: int) -> int:
    """Return the number of sequences whose states take `memory` bytes."""
    return memory // (shape.hidden * len(shape.state_names) * FLOAT_BYTES)


@dataclass(frozen=True)
class Key:
    """The name of a sequence: callers of different identities have names of their own."""

    identity: str
    name: int | str


@dataclass
class _Turn:
    """Who waits for a sequence, or has it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Sequences:
    """The states of one model's sequences: rows of arrays, which the system gives memory as they are used.

    A full store gives up the least recently used sequence: that of the identity that begins another one, if it holds
    its share, or else that of all. To be used in the event loop.

    Args:
        memory: bytes of all states.
        idle_seconds: a sequence that is not used for this time may be given up.
    """

    def __init__(self, shape: ModelShape, memory: int, idle_seconds: float) -> None:
        self._hidden, self._names = shape.hidden, len(shape.state_names)
        self.capacity = capacity(shape, memory)
        self._idle_seconds = idle_seconds
        self._arrays: Arrays = ()
        self._used: NDArray[np.float64] = np.empty(0)  # time.monotonic() by row
        self._rows: OrderedDict[Key, int] = OrderedDict()  # the least recently used first
        self._of: dict[str, OrderedDict[Key, None]] = {}  # by identity, in the same order
        self._free: list[int] = []
        self._turns: dict[Key, _Turn] = {}
        self._gone: OrderedDict[int, str] = OrderedDict()  # why, by the key's hash, of those that went last
        self._idle_reason = f"it was not used for {idle_seconds:g} s (--sequence-idle)"

    def __len__(self) -> int:
        return len(self._rows)

    async def step(
        self, key: Key, token: NDArray[np.int64], steps: Steps, *, begin: Arrays | None, end: bool
    ) -> tuple[StepOutput, float]:
        """Run a step of a sequence, in the order of the calls; return its output, and the seconds that it waited.

        A call that fails, or is given up, leaves the state as it was.

        Args:
            token: [1].
            begin: the state [1, H] of each name with which the sequence begins, anew if it is there; None to go on.
            end: the sequence is forgotten after it.

        Raises:
            InvalidField: the memory is too small for any.
            SequenceNotFound: there is none to go on with.
            Overloaded: all that are held are in use; or as Steps.step.
        """
        if not self.capacity:
            raise InvalidField("sequence_id", "no sequence is held here (--sequence-memory): send the state each time")
        async with self._turn(key):
            self._expire(key)
            row = self._find(key) if begin is None else self._begin(key, begin)
            output, waited = await steps.step(token, [array[row : row + 1] for array in self._arrays])
            self._write(row, output.state)
            self._touch(key, row)
            if end:
                self._remove(key)
            return output, waited

    @asynccontextmanager
    async def _turn(self, key: Key) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    def _find(self, key: Key) -> int:
        row = self._rows.get(key)
        if row is None:
            raise SequenceNotFound(key.name, self._gone.get(hash(key), ""))
        return row

    def _begin(self, key: Key, state: Arrays) -> int:
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self._free_row(key.identity)
            self._of.setdefault(key.identity, OrderedDict())[key] = None
            self._gone.pop(hash(key), None)
        self._write(row, state)
        self._touch(key, row)
        return row

    def _free_row(self, identity: str) -> int:
        if not self._arrays:
            self._arrays = [np.empty((self.capacity, self._hidden), np.float32) for _ in range(self._names)]
            self._used = np.empty(self.capacity)
            self._free = list(range(self.capacity - 1, -1, -1))
        if not self._free:
            own = self._of.get(identity, OrderedDict())
            holds_share = len(own) * len(self._of) >= self.capacity
            self._evict(own if holds_share else self._rows)
        return self._free.pop()

    def _evict(self, candidates: Iterable[Key]) -> None:
        key = next((key for key in candidates if key not in self._turns), None)
        if key is None:
            raise Overloaded.too_many_sequences(self.capacity)
        self._forget(key, "newer ones needed its place (--sequence-memory)")

    def _expire(self, turn: Key) -> None:
        """Give up the sequences that nobody used for so long, but those in use; `turn`: the one whose turn it is."""
        before = time.monotonic() - self._idle_seconds
        while self._rows:
            key, row = next(iter(self._rows.items()))
            if self._used[row] > before or (key in self._turns and key != turn):
                return
            self._forget(key, self._idle_reason)

    def _forget(self, key: Key, why: str) -> None:
        self._remove(key)
        self._gone[hash(key)] = why
        if len(self._gone) > MOST_GONE:
            self._gone.popitem(last=False)

    def _remove(self, key: Key) -> None:
        self._free.append(self._rows.pop(key))
        own = self._of[key.identity]
        del own[key]
        if not own:
            del self._of[key.identity]

    def _write(self, row: int, state: Arrays) -> None:
        for array, values in zip(self._arrays, state, strict=True):
            array[row] = values[0]

    def _touch(self, key: Key, row: int) -> None:
        self._rows.move_to_end(key)
        self._of[key.identity].move_to_end(key)
        self._used[row] = time.monotonic()
