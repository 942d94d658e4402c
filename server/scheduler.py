"""Which rows run next, and for how many steps: bookkeeping with integers, no arrays and no clock.

A row is one text. It generates in the area of running rows, which has the slots 0, 1, 2, ... without a gap; a group is
`max_batch` neighbouring slots and runs as one batch, and groups take turns. A row with a long prompt first reads it in
an area of its own, whose runs take turns with the others: there a prompt passes in runs of many steps, and the running
rows keep half of the time. A row that leaves an area is replaced by its last one.

Slots are shared between identities: while rows wait, one that has two slots more than another gives one up.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain

from server.fair_queue import FairQueue

__all__ = ["READERS", "Area", "Move", "Plan", "Row", "Scheduler", "Status"]

MAX_STEPS = 64
# A newcomer's first run gives it this many characters, so that they are seen early.
FIRST_CHARS = 4
# A prompt from this length on is read in the area for it; shorter ones are part of the first run.
LONG_PROMPT = 32
READERS, MAX_READ_STEPS = 16, 256
# Of the time, while other rows generate.
READING_SHARE = 0.5
# How fast runs get longer while their messages are not sent in time.
STRETCH = 1.2
# No run is stretched beyond so many seconds: a newcomer waits for the end of one.
LONGEST_STRETCHED = 0.1


class Area(Enum):
    RUNNING = "running"
    READING = "reading"


class Status(Enum):
    WAITING = "waiting"
    READING = "reading"
    RUNNING = "running"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Row:
    """One text: what it still has to do, and where it is.

    Attributes:
        forced_left: characters that are given, of a prompt or a text received before, and have not run.
        silent_left: of them, the first so many do not go to the reader.
        chars_left: characters that may still be generated.
        credit: characters that may go to its reader before it has taken more; a run may exceed it.
        max_delay: seconds that a generated character may wait for its tick to end.
        full: its sampling, or what its reader wants to know, needs the full graph.
        scored: so do its given characters.
        fresh: nothing was generated yet.
        identity: who asked for it.
        arrival: its place in the order in which rows came.
    """

    stream: int
    forced_left: int
    silent_left: int
    chars_left: int
    credit: int
    max_delay: float
    full: bool = False
    scored: bool = False
    fresh: bool = True
    identity: str = ""
    arrival: int = 0
    status: Status = Status.WAITING
    slot: int = -1

    @property
    def area(self) -> Area:
        """Where its slot is, if it has one."""
        return Area.READING if self.status is Status.READING else Area.RUNNING

    @property
    def done(self) -> bool:
        return not (self.chars_left or self.forced_left)

    @property
    def can_run(self) -> bool:
        return not self.done and (self.credit > 0 or self.silent_left > 0)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run: the rows of the slots first, first + 1, ... of an area, and the steps of the run.

    Attributes:
        full: a row needs the full graph.
        hold: a short run for newcomers: what others generate can wait for the next one.
    """

    area: Area
    first: int
    rows: Sequence[Row]
    steps: int
    full: bool = False
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """The row that was in slot `source` of its area is now in slot `target`."""

    source: int
    target: int


class Scheduler:
    """Rows and the queue of those that wait.

    Args:
        max_rows: rows that run; a paused one gives its place to another, and waits for one when it can go on.
        max_batch: rows of one run.
        chunk_delay: seconds that one round of all groups should take.
        max_scores: outcomes of one run of the full graph.
        step_seconds: what one step takes, by the number of rows and whether it is the full graph's.
    """

    def __init__(
        self,
        max_rows: int,
        max_batch: int,
        chunk_delay: float,
        step_seconds: Callable[[int, bool], float],
        max_scores: int,
    ) -> None:
        self.max_rows, self.max_batch, self.chunk_delay = max_rows, max_batch, chunk_delay
        self.max_scores = max_scores
        self.readers = min(READERS, max_batch)
        self.step_seconds = step_seconds
        self.running: list[Row] = []
        self.reading: list[Row] = []
        self.queue = FairQueue()
        self._held: Counter[str] = Counter()  # slots of each identity
        self._turn = 0
        self._stretch = 1.0
        self._reading_next = False
        self._reading_seconds = 0.0  # of the next run of the reading area
        self._held_seconds = 0.0  # what short runs for newcomers took of the running round

    @property
    def idle(self) -> bool:
        """Whether nothing can run until a row is added, granted credit, or ends."""
        return not (self.running or self.reading or self.queue)

    @property
    def free(self) -> int:
        """Slots that nobody has."""
        return self.max_rows - len(self.running) - len(self.reading)

    def add(self, row: Row) -> None:
        """Queues a new row."""
        self.queue.begin(row)

    def grant(self, row: Row, chars: int) -> None:
        """The row's reader took `chars`."""
        row.credit += chars
        if row.status is Status.PAUSED and row.credit > 0:
            self.queue.go_on(row)

    def surplus(self) -> list[Row]:
        """The rows that shall give way, so that those who wait get as many slots as those who have most."""
        if self.free or not self.queue:
            return []
        held, claims, rows = self._held.copy(), self.queue.claims(), list[Row]()
        last: dict[str, Iterator[Row]] = {}
        while claims:
            poorest = min(claims, key=lambda identity: held[identity])
            richest = max(held, key=lambda identity: held[identity])
            if held[richest] < held[poorest] + 2:
                break
            rows.append(next(last.setdefault(richest, self._from_last(richest))))
            held[richest] -= 1
            held[poorest] += 1
            claims[poorest] -= 1
            if not claims[poorest]:
                del claims[poorest]
        return rows

    def give_way(self, row: Row) -> Move | None:
        """Takes the row out of its area; it goes on when it is its identity's turn again."""
        move = self.pause(row)
        self.queue.go_on(row)
        return move

    def admit(self) -> list[Row]:
        """Gives free slots to those whose turn it is; returns them."""
        rows = []
        while self.free and (row := self.queue.next(self._held)):
            self.queue.discard(row)
            long = row.forced_left >= LONG_PROMPT and len(self.reading) < self.readers
            self._enter(row, Status.READING if long else Status.RUNNING)
            rows.append(row)
        return rows

    def plan(self, *, behind: bool = False) -> Plan | None:
        """The next run; None if no row can run.

        Args:
            behind: messages take the event loop too long. Runs get longer until they are so few that it keeps up, and
                shorter again when it does.
        """
        self._stretch = max(self._stretch * (STRETCH if behind else 1 / STRETCH), 1.0)
        if self.reading and (self._reading_next or not self.running):
            self._reading_next = False
            return self._plan_reading()
        if not self.running:
            return None
        self._reading_next = True
        return self._plan_running()

    def has_read(self, row: Row) -> Move | None:
        """The row's prompt is read: it goes on among the running ones, in the slot that it has now."""
        move = self._vacate(row)
        self._enter(row, Status.RUNNING)
        return move

    def end(self, row: Row) -> Move | None:
        """Takes the row out, wherever it is."""
        move = None
        if row.status in (Status.RUNNING, Status.READING):
            move = self._vacate(row)
        else:
            self.queue.discard(row)
        row.status = Status.ENDED
        return move

    def pause(self, row: Row) -> Move | None:
        """Takes a row out of its area until its reader has taken something."""
        move = self._vacate(row)
        row.status = Status.PAUSED
        return move

    def _plan_reading(self) -> Plan:
        """As many steps as fit, and none beyond the end of a prompt."""
        rows = list(self.reading)
        seconds = self._reading_seconds if self.running else self.chunk_delay
        full = any(row.scored for row in rows)
        steps = int(seconds / self.step_seconds(len(rows), full))
        shortest = min(row.forced_left for row in rows)
        most = self._most_steps(MAX_READ_STEPS, rows, full)
        return Plan(Area.READING, 0, rows, max(1, min(steps, shortest, most)), full)

    def _plan_running(self) -> Plan:
        groups = -(-len(self.running) // self.max_batch)
        self._turn = (self._turn + 1) % groups
        first = self._turn * self.max_batch
        rows = self.running[first : first + self.max_batch]
        full = any(row.full for row in rows)
        step_seconds = self.step_seconds(len(rows), full)
        round_seconds = min(self.chunk_delay, min(row.max_delay for row in rows)) / groups
        self._stretch = max(min(self._stretch, LONGEST_STRETCHED / round_seconds), 1.0)
        round_seconds *= self._stretch
        own_seconds = round_seconds * (1 - READING_SHARE) if self.reading else round_seconds
        longest = max(row.forced_left + row.chars_left for row in rows)
        most = self._most_steps(MAX_STEPS, rows, full)
        steps = max(1, min(int((own_seconds - self._held_seconds) / step_seconds), longest, most))
        first_chars = min((row.forced_left for row in rows if row.fresh), default=MAX_STEPS) + FIRST_CHARS
        hold = groups == 1 and 2 * first_chars < steps
        steps = first_chars if hold else steps
        self._held_seconds = self._held_seconds + steps * step_seconds if hold else 0.0
        self._reading_seconds = max(round_seconds * READING_SHARE, round_seconds - steps * step_seconds)
        if hold:
            # The round is not over: its reading comes after it.
            self._reading_next = False
        return Plan(Area.RUNNING, first, rows, steps, full, hold)

    def _from_last(self, identity: str) -> Iterator[Row]:
        """The identity's rows, from the last slot on."""
        rows = chain(reversed(self.running), reversed(self.reading))
        return (row for row in rows if row.identity == identity)

    def _most_steps(self, steps: int, rows: Sequence[Row], full: bool) -> int:
        return min(steps, max(1, self.max_scores // len(rows))) if full else steps

    def _enter(self, row: Row, status: Status) -> None:
        area = self._area(status)
        row.slot, row.status = len(area), status
        area.append(row)
        self._held[row.identity] += 1

    def _vacate(self, row: Row) -> Move | None:
        area, slot = self._area(row.status), row.slot
        last = area.pop()
        row.slot = -1
        self._held[row.identity] -= 1
        if not self._held[row.identity]:
            del self._held[row.identity]
        if last is row:
            return None
        move = Move(last.slot, slot)
        area[slot], last.slot = last, slot
        return move

    def _area(self, status: Status) -> list[Row]:
        return self.reading if status is Status.READING else self.running
