"""Decides which rows run next, and for how many steps: bookkeeping, no arrays, no clock, no asyncio.

A row decodes in the area for it, which has the slots 0, 1, 2, ... without a gap; a group is `max_batch` neighbouring
slots and runs as one batch, and groups take turns. A row with a long prompt first passes the prefill area, whose runs
take turns with the others: there a prompt passes in runs of many steps, and decode keeps half of the time. A row that
leaves an area is replaced by its last one.

Slots are shared between identities: while rows wait, one that has two slots more than another gives one up.
"""

import math
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Generic

from server.engine.fair_queue import FairQueue
from server.engine.plan import LONE_STEPS, MAX_STEPS, Area, Move, Plan, R, Row, RunLimits, Status

__all__ = ["Scheduler"]

# A newcomer's first run gives it this many characters, so that they are seen early.
FIRST_CHARS = 4
# A message that its reader would rather wait for than have in parts is made in one run up to this length.
MOST_TOGETHER = 16
# A prompt from this length on passes the prefill area; shorter ones are part of the first run.
LONG_PROMPT = 32
MAX_PREFILL_STEPS = 256
# Share of the time that prefill gets while other rows decode.
PREFILL_SHARE = 0.5
# Seconds of a run below which its beginning and end would count: so long are runs at least that keep to short messages.
EVEN_SECONDS = 0.004
# Factor by which a run's time grows per run while messages are not sent in time, and shrinks again after that.
STRETCH = 1.2
# Seconds beyond which no run is stretched: a newcomer waits for the end of one.
LONGEST_STRETCHED = 0.1


class Scheduler(Generic[R]):
    """Rows and the queue of those that wait.

    Args:
        limits: of runs.
        chunk_delay: seconds that one round of all groups should take.
        step_seconds: gives the seconds of one step, by the number of rows and whether it is the full graph's.
    """

    def __init__(self, limits: RunLimits, chunk_delay: float, step_seconds: Callable[[int, bool], float]) -> None:
        self.limits, self.chunk_delay = limits, chunk_delay
        self.step_seconds = step_seconds
        self.decode_rows: list[R] = []
        self.prefill_rows: list[R] = []
        self.queue: FairQueue[R] = FairQueue()
        self._slots: Counter[str] = Counter()  # that each identity has
        self._turn = 0
        self._stretch = 1.0
        self._is_prefill_next = False
        self._prefill_seconds = 0.0  # of the next prefill run
        self._short_run_seconds = 0.0  # what short runs for newcomers took of the decode area's round

    @property
    def idle(self) -> bool:
        """Whether nothing can run until a row is added, granted credit, or ends."""
        return not (self.decode_rows or self.prefill_rows or self.queue)

    @property
    def free(self) -> int:
        """How many slots nobody has."""
        return self.limits.max_rows - len(self.decode_rows) - len(self.prefill_rows)

    def add(self, row: R, *, is_replay: bool = False) -> None:
        """Queue a new row."""
        self.queue.begin(row, is_replay=is_replay)

    def grant(self, row: R, chars: int) -> None:
        """Count `chars` that the row's reader took: a paused row may go on then."""
        row.credit += chars
        if row.status is Status.PAUSED and row.credit > 0:
            self.queue.go_on(row)

    def rows_to_preempt(self) -> list[R]:
        """Return the rows that give up their slots, until no waiting identity holds two slots fewer than another."""
        if self.free or not self.queue:
            return []
        slots, claims, rows = self._slots.copy(), self.queue.claims(), list[R]()
        last: dict[str, Iterator[R]] = {}
        while claims:
            poorest = min(claims, key=lambda identity: slots[identity])
            richest = max(slots, key=lambda identity: slots[identity])
            if slots[richest] < slots[poorest] + 2:
                break
            rows.append(next(last.setdefault(richest, self._from_last(richest))))
            slots[richest] -= 1
            slots[poorest] += 1
            claims[poorest] -= 1
            if not claims[poorest]:
                del claims[poorest]
        return rows

    def preempt(self, row: R) -> Move | None:
        """Take the row out of its area for another identity's; it goes on when it is its own identity's turn again."""
        move = self.pause(row)
        self.queue.go_on(row)
        return move

    def admit(self) -> list[R]:
        """Give free slots to those whose turn it is; return them."""
        rows = list[R]()
        while self.free and len(rows) < self.limits.newcomers and (row := self.queue.next(self._slots)):
            self.queue.discard(row)
            long = row.forced_left >= LONG_PROMPT and len(self.prefill_rows) < self.limits.prefill_rows
            self._enter(row, Status.PREFILL if long else Status.DECODE)
            rows.append(row)
        return rows

    def plan(self, *, behind: bool = False) -> Plan[R] | None:
        """Return the next run; None if no row can run.

        Args:
            behind: messages take the event loop too long. Runs get longer until they are few enough for it, and
                shorter again when it keeps up.
        """
        self._stretch = max(self._stretch * (STRETCH if behind else 1 / STRETCH), 1.0)
        if self.prefill_rows and (self._is_prefill_next or not self.decode_rows):
            self._is_prefill_next = False
            return self._plan_prefill()
        if not self.decode_rows:
            return None
        self._is_prefill_next = True
        return self._plan_decode()

    def finish_prefill(self, row: R) -> Move | None:
        """Move a row whose prompt has run to the decode area; it has another slot then."""
        move = self._vacate(row)
        self._enter(row, Status.DECODE)
        return move

    def end(self, row: R) -> Move | None:
        """Take the row out, wherever it is."""
        move = None
        if row.status in (Status.DECODE, Status.PREFILL):
            move = self._vacate(row)
        else:
            self.queue.discard(row)
        row.status = Status.ENDED
        return move

    def pause(self, row: R) -> Move | None:
        """Take a row out of its area until its reader has taken something."""
        move = self._vacate(row)
        row.status = Status.PAUSED
        return move

    def _plan_prefill(self) -> Plan[R]:
        """Return a run of as many steps as fit, none of them beyond the end of a prompt."""
        rows = list(self.prefill_rows)
        seconds = self._prefill_seconds if self.decode_rows else self.chunk_delay
        full = any(row.scored for row in rows)
        steps = int(seconds / self.step_seconds(len(rows), full))
        shortest = min(row.forced_left for row in rows)
        most = self._most_steps(MAX_PREFILL_STEPS, rows, full)
        return Plan(Area.PREFILL, 0, rows, max(1, min(steps, shortest, most)), full)

    def _plan_decode(self) -> Plan[R]:
        """Return a run of the next group.

        K is the largest that fits its share of the round; short if a row has no first character yet.
        """
        groups = -(-len(self.decode_rows) // self.limits.max_batch)
        self._turn = (self._turn + 1) % groups
        first = self._turn * self.limits.max_batch
        rows = self.decode_rows[first : first + self.limits.max_batch]
        full = any(row.full for row in rows)
        step_seconds = self.step_seconds(len(rows), full)
        round_seconds = min(self.chunk_delay, min(row.chunking.max_delay for row in rows)) / groups
        self._stretch = max(min(self._stretch, LONGEST_STRETCHED / round_seconds), 1.0)
        round_seconds *= self._stretch
        own_seconds = round_seconds * (1 - PREFILL_SHARE) if self.prefill_rows else round_seconds
        longest = max(row.forced_left + row.chars_left for row in rows)
        fitting = int((own_seconds - self._short_run_seconds) / step_seconds)
        fitting = max(min(fitting, _even_steps(rows, step_seconds)), min(map(self._chars_together, rows)))
        allowed = self.limits.full_steps if full else self.limits.steps
        # Between two runs half a millisecond is lost, and nobody waits for the end of a lone row's.
        is_lone = len(self.decode_rows) + len(self.prefill_rows) == 1
        fitting = min(fitting, LONE_STEPS if is_lone else MAX_STEPS)
        steps = _step_count(allowed, self._most_steps(fitting, rows, full), longest)
        needed = (row.forced_left + max(FIRST_CHARS, self._chars_together(row)) for row in rows if row.fresh)
        short = _step_count(allowed, steps, min(needed, default=MAX_STEPS))
        postpone = groups == 1 and 2 * short < steps
        steps = short if postpone else steps
        self._short_run_seconds = self._short_run_seconds + steps * step_seconds if postpone else 0.0
        self._prefill_seconds = max(round_seconds * PREFILL_SHARE, round_seconds - steps * step_seconds)
        if postpone:
            # The round is not over: its prefill comes after it.
            self._is_prefill_next = False
        return Plan(Area.DECODE, first, rows, steps, full, postpone)

    def _chars_together(self, row: R) -> int:
        """Return how many characters the row's reader wants in one message, even if they come later then."""
        size, delay = row.chunking.max_chars, row.chunking.max_delay
        return min(size, MOST_TOGETHER) if size and delay > self.chunk_delay else 1

    def _from_last(self, identity: str) -> Iterator[R]:
        """Yield the identity's rows, from the last slot on."""
        rows = chain(reversed(self.decode_rows), reversed(self.prefill_rows))
        return (row for row in rows if row.identity == identity)

    def _most_steps(self, steps: int, rows: Sequence[R], full: bool) -> int:
        return min(steps, max(1, self.limits.max_scores // len(rows))) if full else steps

    def _enter(self, row: R, status: Status) -> None:
        area = self._area(status)
        row.slot, row.status = len(area), status
        area.append(row)
        self._slots[row.identity] += 1

    def _vacate(self, row: R) -> Move | None:
        area, slot = self._area(row.status), row.slot
        last = area.pop()
        row.slot = -1
        self._slots[row.identity] -= 1
        if not self._slots[row.identity]:
            del self._slots[row.identity]
        if last is row:
            return None
        move = Move(last.slot, slot)
        area[slot], last.slot = last, slot
        return move

    def _area(self, status: Status) -> list[R]:
        return self.prefill_rows if status is Status.PREFILL else self.decode_rows


def _even_steps(rows: Sequence[Row], step_seconds: float) -> int:
    """Return the most steps by which short messages come evenly, if short messages are all that the rows want.

    More would come as several at once; fewer cost messages, or many runs that are too short to be worth it.
    """
    longest = max(row.chunking.max_chars or LONE_STEPS for row in rows)
    return longest * math.ceil(EVEN_SECONDS / (longest * step_seconds))


def _step_count(allowed: Sequence[int], most: int, needed: int) -> int:
    """Return the smallest allowed step count that is at least `needed`, capped at `most` and no less than the first."""
    sizes = allowed[: bisect_right(allowed, most)] or allowed[:1]
    return sizes[min(bisect_left(sizes, needed), len(sizes) - 1)]
