"""Rows that want a slot, and whose turn it is."""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.engine.plan import Row

__all__ = ["FairQueue"]


@dataclass
class _Line:
    """What one identity has in the queue, by stream: rows that can go on, and rows that never had a slot."""

    resumed: dict[int, "Row"] = field(default_factory=dict)
    waiting: dict[int, "Row"] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.resumed) + len(self.waiting)

    def __iter__(self) -> Iterator["Row"]:
        yield from self.resumed.values()
        yield from self.waiting.values()


class FairQueue:
    """The identity that holds the fewest slots is next.

    Of those that hold equally many: one whose row goes on before one whose row begins, and who came first. So a single
    identity's rows go on first, and begin in the order in which they came.
    """

    def __init__(self) -> None:
        self._lines: defaultdict[str, _Line] = defaultdict(_Line)
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    @property
    def waiting(self) -> int:
        """Rows that never had a slot."""
        return sum(len(line.waiting) for line in self._lines.values())

    @property
    def oldest(self) -> "Row | None":
        """The row that waits longest for its first slot."""
        first = (next(iter(line.waiting.values())) for line in self._lines.values() if line.waiting)
        return min(first, key=lambda row: row.arrival, default=None)

    def begin(self, row: "Row") -> None:
        row.arrival = next(self._arrivals)
        self._lines[row.identity].waiting[row.stream] = row

    def go_on(self, row: "Row") -> None:
        self._lines[row.identity].resumed[row.stream] = row

    def discard(self, row: "Row") -> None:
        """Takes the row out, if it is here."""
        line = self._lines.get(row.identity)
        if line is None:
            return
        line.resumed.pop(row.stream, None)
        line.waiting.pop(row.stream, None)
        if not line:
            del self._lines[row.identity]

    def next(self, held: Mapping[str, int]) -> "Row | None":
        """The row whose turn it is, where each identity holds so many slots; it stays in the queue."""

        def turn(identity: str) -> tuple[int, bool, int]:
            line = self._lines[identity]
            return held.get(identity, 0), not line.resumed, next(iter(line)).arrival

        poorest = min(self._lines, key=turn, default=None)
        return None if poorest is None else next(iter(self._lines[poorest]))

    def claims(self) -> dict[str, int]:
        """How many slots each identity wants beyond those that it has."""
        return {identity: len(line) for identity, line in self._lines.items()}
