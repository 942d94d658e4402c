"""The queue of rows that want a slot: it decides whose turn it is."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Generic

from server.engine.plan import R, Status

__all__ = ["FairQueue"]


@dataclass
class _Line(Generic[R]):
    """One identity's rows in the queue, by stream: those that can go on, and those that never had a slot."""

    resumed: dict[int, R] = field(default_factory=dict)
    waiting: dict[int, R] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.resumed) + len(self.waiting)

    def __iter__(self) -> Iterator[R]:
        yield from self.resumed.values()
        yield from self.waiting.values()


class FairQueue(Generic[R]):
    """The identity that holds the fewest slots is next.

    Among identities that hold equally many, one whose row goes on comes before one whose row begins, and then the one
    that came first. So a single identity's rows go on first, and begin in the order in which they came.
    """

    def __init__(self) -> None:
        self._lines: defaultdict[str, _Line[R]] = defaultdict(_Line)
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    @property
    def waiting(self) -> int:
        """How many rows never had a slot."""
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def oldest(self) -> R | None:
        """The row that waits longest for its first slot."""
        first = (next(iter(line.waiting.values())) for line in self._lines.values() if line.waiting)
        return min(first, key=lambda row: row.arrival, default=None)

    def queue_head(self, most: int) -> list[R]:
        """Return the rows that wait longest for their first slot here, at most `most` of them."""
        first = chain.from_iterable(islice(line.waiting.values(), most) for line in self._lines.values())
        resumed = chain.from_iterable(line.resumed.values() for line in self._lines.values())
        replays = (row for row in resumed if row.status is Status.WAITING)
        return sorted(chain(replays, first), key=lambda row: row.arrival)[:most]

    def begin(self, row: R, *, is_replay: bool = False) -> None:
        """Queue a new row; a replay waits with those that go on."""
        row.arrival = next(self._arrivals)
        line = self._lines[row.identity]
        (line.resumed if is_replay else line.waiting)[row.stream] = row

    def go_on(self, row: R) -> None:
        self._lines[row.identity].resumed[row.stream] = row

    def discard(self, row: R) -> None:
        """Take the row out, if it is here."""
        line = self._lines.get(row.identity)
        if line is None:
            return
        line.resumed.pop(row.stream, None)
        line.waiting.pop(row.stream, None)
        if not line:
            del self._lines[row.identity]

    def next(self, slots: Mapping[str, int]) -> R | None:
        """Return the row whose turn it is; it stays in the queue. `slots`: how many each identity holds."""

        def turn(identity: str) -> tuple[int, bool, int]:
            line = self._lines[identity]
            return slots.get(identity, 0), not line.resumed, next(iter(line)).arrival

        poorest = min(self._lines, key=turn, default=None)
        return None if poorest is None else next(iter(self._lines[poorest]))

    def claims(self) -> dict[str, int]:
        """Return how many slots each identity wants beyond those that it has."""
        return {identity: len(line) for identity, line in self._lines.items()}
