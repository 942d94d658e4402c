"""Which rows run next, and for how many steps: bookkeeping with integers, no arrays and no clock.

A row is one text. It generates in the area of running rows, which has the slots 0, 1, 2, ... without a gap; a group is
`max_batch` neighbouring slots and runs as one batch, and groups take turns. A row with a long prompt first reads it in
an area of its own, whose runs take turns with the others: there a prompt passes in runs of many steps, and the running
rows keep half of the time. A row that leaves an area is replaced by its last one.

Slots are shared between identities: while rows wait, one that has two slots more than another gives one up.
"""

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from server.engine.fair_queue import FairQueue
from server.engine.plan import Area, Move, Plan, Row, Runs, Status

__all__ = ["MAX_STEPS", "READERS", "Scheduler"]

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


class Scheduler:
    """Rows and the queue of those that wait.

    Args:
        runs: what runs there may be.
        chunk_delay: seconds that one round of all groups should take.
        step_seconds: what one step takes, by the number of rows and whether it is the full graph's.
    """

    def __init__(self, runs: Runs, chunk_delay: float, step_seconds: Callable[[int, bool], float]) -> None:
        self.runs, self.chunk_delay = runs, chunk_delay
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
        return self.runs.max_rows - len(self.running) - len(self.reading)

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
        rows = list[Row]()
        while self.free and len(rows) < self.runs.newcomers and (row := self.queue.next(self._held)):
            self.queue.discard(row)
            long = row.forced_left >= LONG_PROMPT and len(self.reading) < self.runs.readers
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
        groups = -(-len(self.running) // self.runs.max_batch)
        self._turn = (self._turn + 1) % groups
        first = self._turn * self.runs.max_batch
        rows = self.running[first : first + self.runs.max_batch]
        full = any(row.full for row in rows)
        step_seconds = self.step_seconds(len(rows), full)
        round_seconds = min(self.chunk_delay, min(row.max_delay for row in rows)) / groups
        self._stretch = max(min(self._stretch, LONGEST_STRETCHED / round_seconds), 1.0)
        round_seconds *= self._stretch
        own_seconds = round_seconds * (1 - READING_SHARE) if self.reading else round_seconds
        longest = max(row.forced_left + row.chars_left for row in rows)
        fitting = int((own_seconds - self._held_seconds) / step_seconds)
        allowed = self.runs.full_steps if full else self.runs.steps
        steps = _size(allowed, self._most_steps(fitting, rows, full), longest)
        first_chars = min((row.forced_left for row in rows if row.fresh), default=MAX_STEPS) + FIRST_CHARS
        short = _size(allowed, steps, first_chars)
        hold = groups == 1 and 2 * short < steps
        steps = short if hold else steps
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
        return min(steps, max(1, self.runs.max_scores // len(rows))) if full else steps

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


def _size(allowed: Sequence[int], most: int, needed: int) -> int:
    """Of the allowed numbers of steps up to `most` the first that is enough, or else the last; the smallest if none."""
    sizes = allowed[: bisect_right(allowed, most)] or allowed[:1]
    return sizes[min(bisect_left(sizes, needed), len(sizes) - 1)]
