"""Which rows run next, and for how many steps: bookkeeping with integers, no arrays and no clock.

A row is one text. Running rows have the slots 0, 1, 2, ... without a gap; a group is `max_batch` neighbouring slots
and runs as one batch, and groups take turns. A row that leaves is replaced by the last one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, islice

__all__ = ["Move", "Plan", "Row", "Scheduler", "Status"]

MAX_STEPS = 64
# A newcomer's first run gives it this many characters, so that they are seen early.
FIRST_CHARS = 4


class Status(Enum):
    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Row:
    """One text: what it still has to do, and where it is.

    Attributes:
        forced_left: characters of the prompt that have not run.
        chars_left: characters that may still be generated.
        credit: characters that may be generated before its reader has taken more.
        max_delay: seconds that a generated character may wait for its tick to end.
        fresh: nothing was generated yet.
    """

    stream: int
    forced_left: int
    chars_left: int
    credit: int
    max_delay: float
    fresh: bool = True
    status: Status = Status.WAITING
    slot: int = -1

    @property
    def steps(self) -> int:
        """Steps it could take now."""
        return self.forced_left + min(self.chars_left, self.credit)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: the rows of the slots first, first + 1, ..., the steps of the run, and those of each row."""

    first: int
    rows: Sequence[Row]
    steps: int
    row_steps: Sequence[int]


@dataclass(frozen=True, slots=True)
class Move:
    """The row that was in slot `source` is now in slot `target`."""

    source: int
    target: int


class Scheduler:
    """Rows and the queue of those that wait.

    Args:
        max_rows: rows that run; a paused one gives its place to another, and waits for one when it can go on.
        max_batch: rows of one run.
        chunk_delay: seconds that one round of all groups should take.
        step_seconds: what one step of a run with so many rows takes.
    """

    def __init__(self, max_rows: int, max_batch: int, chunk_delay: float, step_seconds: Callable[[int], float]) -> None:
        self.max_rows, self.max_batch, self.chunk_delay = max_rows, max_batch, chunk_delay
        self.step_seconds = step_seconds
        self.running: list[Row] = []
        self.waiting: dict[int, Row] = {}
        self.resumed: dict[int, Row] = {}
        self._turn = 0

    @property
    def idle(self) -> bool:
        """Whether nothing can run until a row is added, granted credit, or ends."""
        return not (self.running or self.resumed or self.waiting)

    def add(self, row: Row) -> None:
        """Queues a new row."""
        self.waiting[row.stream] = row

    def grant(self, row: Row, chars: int) -> None:
        """The row's reader took `chars`."""
        row.credit += chars
        if row.status is Status.PAUSED:
            self.resumed[row.stream] = row

    def admit(self) -> list[Row]:
        """Gives slots to paused rows that can go on and to waiting ones, in this order; returns them."""
        free = self.max_rows - len(self.running)
        rows = list(islice(chain(self.resumed.values(), self.waiting.values()), free))
        for row in rows:
            (self.resumed if row.status is Status.PAUSED else self.waiting).pop(row.stream)
            row.slot, row.status = len(self.running), Status.RUNNING
            self.running.append(row)
        return rows

    def plan(self) -> Plan | None:
        """The next run; None if no row can run."""
        if not self.running:
            return None
        groups = -(-len(self.running) // self.max_batch)
        self._turn = (self._turn + 1) % groups
        first = self._turn * self.max_batch
        rows = self.running[first : first + self.max_batch]
        steps = self._choose_steps(rows, groups)
        return Plan(first, rows, steps, [min(steps, row.steps) for row in rows])

    def end(self, row: Row) -> Move | None:
        """Takes the row out, wherever it is."""
        move = None
        if row.status is Status.RUNNING:
            move = self._vacate(row)
        elif row.status is Status.PAUSED:
            self.resumed.pop(row.stream, None)
        else:
            self.waiting.pop(row.stream, None)
        row.status = Status.ENDED
        return move

    def pause(self, row: Row) -> Move | None:
        """Takes a running row out of the batch until its reader has taken something."""
        move = self._vacate(row)
        row.status = Status.PAUSED
        return move

    def _choose_steps(self, rows: Sequence[Row], groups: int) -> int:
        delay = min(self.chunk_delay, min(row.max_delay for row in rows)) / groups
        steps = int(delay / self.step_seconds(len(rows)))
        soonest = min((row.forced_left for row in rows if row.fresh), default=MAX_STEPS)
        longest = max(row.steps for row in rows)
        return max(1, min(steps, soonest + FIRST_CHARS, longest, MAX_STEPS))

    def _vacate(self, row: Row) -> Move | None:
        last = self.running.pop()
        if last is row:
            return None
        move = Move(last.slot, row.slot)
        self.running[row.slot] = last
        last.slot, row.slot = row.slot, -1
        return move
