"""States that the server keeps for callers of single steps, by a number or name of theirs."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bundle.shape import ModelShape
from server.errors import InvalidField, Overloaded, SequenceNotFound
from server.runtime.step_runner import StepOutput
from server.streaming.steps import Steps

__all__ = ["HeldSequence", "Key", "Loan", "Sequences", "capacity", "state_bytes"]

FLOAT_BYTES = 4
# After this time without a step another replica may have a newer state: one that was believed dead, and was not.
SURE_SECONDS = 2.0
# The sequences of which it is known why they are gone.
MOST_GONE = 100_000
Arrays = Sequence[NDArray[np.float32]]


def capacity(shape: ModelShape, memory: int) -> int:
    """Return the number of sequences whose states take `memory` bytes."""
    return memory // state_bytes(shape)


def state_bytes(shape: ModelShape) -> int:
    """Return the bytes of one sequence's state."""
    return shape.hidden * len(shape.state_names) * FLOAT_BYTES


@dataclass(frozen=True)
class Key:
    """The name of a sequence: callers of different identities have names of their own."""

    identity: str
    name: int | str


@dataclass(frozen=True)
class HeldSequence:
    """A sequence with its state, as it moves from one replica to another.

    Attributes:
        began: seconds since 1970.
        steps: that came to the state.
        state: [1, H] of each name.
    """

    key: Key
    began: float
    steps: int
    state: Arrays

    @property
    def age(self) -> tuple[float, int]:
        """Of several states of a sequence the one for which this is the largest is in force."""
        return self.began, self.steps


@dataclass
class Loan:
    """Sequences that somebody has a look at; `is_taken`: they are that one's from now on."""

    sequences: Sequence[HeldSequence]
    is_taken: bool = False


Find = Callable[[Key], Awaitable[HeldSequence | None]]


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
        self._began: NDArray[np.float64] = np.empty(0)  # seconds since 1970 by row
        self._steps: NDArray[np.int64] = np.empty(0, np.int64)
        self._rows: OrderedDict[Key, int] = OrderedDict()  # the least recently used first
        self._of: dict[str, OrderedDict[Key, None]] = {}  # by identity, in the same order
        self._free: list[int] = []
        self._turns: dict[Key, _Turn] = {}
        self._gone: OrderedDict[int, str] = OrderedDict()  # why, by the key's hash, of those that went last
        self._idle_reason = f"it was not used for {idle_seconds:g} s (--sequence-idle)"

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: Key) -> bool:
        return key in self._rows

    async def step(
        self,
        key: Key,
        token: NDArray[np.int64],
        steps: Steps,
        *,
        begin: Arrays | None,
        end: bool,
        find_elsewhere: Find | None = None,
    ) -> tuple[StepOutput, float]:
        """Run a step of a sequence, in the order of the calls; return its output, and the seconds that it waited.

        A call that fails, or is given up, leaves the state as it was.

        Args:
            token: [1].
            begin: the state [1, H] of each name with which the sequence begins, anew if it is there; None to go on.
            end: the sequence is forgotten after it.
            find_elsewhere: takes the sequence from other replicas.

        Raises:
            InvalidField: the memory is too small for any.
            SequenceNotFound: there is none to go on with.
            Overloaded: all that are held are in use; or as Steps.step.
        """
        if not self.capacity:
            raise InvalidField("sequence_id", "no sequence is held here (--sequence-memory): send the state each time")
        async with self._turn(key):
            self._expire(key)
            if begin is None:
                row = await self._find(key, find_elsewhere)
            else:
                row = self._put(HeldSequence(key, time.time(), 0, begin))
            output, waited = await steps.step(token, [array[row : row + 1] for array in self._arrays])
            self._write(row, output.state)
            self._steps[row] += 1
            self._touch(key, row)
            if end:
                self._remove(key)
            return output, waited

    @property
    def keys(self) -> Sequence[Key]:
        """The sequences that are held, the least recently used first."""
        return list(self._rows)

    @asynccontextmanager
    async def lend(self, keys: Sequence[Key]) -> AsyncIterator[Loan]:
        """Give those of the sequences that are held, between two steps, to who may take them away."""
        async with AsyncExitStack() as turns:
            for key in keys:
                await turns.enter_async_context(self._turn(key))
            loan = Loan([self._held(key) for key in keys if key in self._rows])
            yield loan
            if loan.is_taken:
                for one in loan.sequences:
                    self._remove(one.key)

    async def adopt(self, sequence: HeldSequence) -> None:
        """Hold a sequence that another replica hands over, unless there is a newer one of its name here.

        Raises: Overloaded: all that are held are in use.
        """
        async with self._turn(sequence.key):
            if sequence.key not in self._rows or self._held(sequence.key).age <= sequence.age:
                self._put(sequence)

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

    async def _find(self, key: Key, find_elsewhere: Find | None) -> int:
        if find_elsewhere and not self._is_sure(key):
            found = await find_elsewhere(key)
            if found and (key not in self._rows or self._held(key).age < found.age):
                return self._put(found)
        row = self._rows.get(key)
        if row is None:
            raise SequenceNotFound(key.name, self._gone.get(hash(key), ""))
        return row

    def _is_sure(self, key: Key) -> bool:
        row = self._rows.get(key)
        return row is not None and time.monotonic() - self._used[row] < SURE_SECONDS

    def _held(self, key: Key) -> HeldSequence:
        row = self._rows[key]
        state = [array[row : row + 1].copy() for array in self._arrays]
        return HeldSequence(key, float(self._began[row]), int(self._steps[row]), state)

    def _put(self, sequence: HeldSequence) -> int:
        """Hold the sequence, anew if it is there; return its row."""
        key = sequence.key
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = self._free_row(key.identity)
            self._of.setdefault(key.identity, OrderedDict())[key] = None
            self._gone.pop(hash(key), None)
        self._began[row], self._steps[row] = sequence.began, sequence.steps
        self._write(row, sequence.state)
        self._touch(key, row)
        return row

    def _free_row(self, identity: str) -> int:
        if not self._arrays:
            self._arrays = [np.empty((self.capacity, self._hidden), np.float32) for _ in range(self._names)]
            self._used, self._began = np.empty(self.capacity), np.empty(self.capacity)
            self._steps = np.empty(self.capacity, np.int64)
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
