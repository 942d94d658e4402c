"""What the scheduler keeps of a row, what runs there may be, and what it decides: integers."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

__all__ = ["Area", "Move", "Plan", "Row", "Runs", "Status"]


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

    def advance(self, steps: int) -> tuple[int, int, int]:
        """Counts a run of so many steps. Of its characters, returns how many are silent, given, and the row's at all:
        these are the first ones, and the row needs no others."""
        silent, forced = min(self.silent_left, steps), min(self.forced_left, steps)
        end = forced + min(steps - forced, self.chars_left)
        self.silent_left -= silent
        self.forced_left -= forced
        self.chars_left -= end - forced
        self.credit -= end - silent
        self.fresh &= end == forced
        return silent, forced, end


@dataclass(frozen=True, slots=True)
class Runs:
    """What runs there may be, as those can who run them.

    Attributes:
        max_rows: rows that run; a paused one gives its place to another, and waits for one when it can go on.
        max_batch: rows of one run.
        steps, full_steps: that a run of running rows may have, ascending; of the full graph.
        max_scores: outcomes of one run of the full graph.
        readers: rows that read apart; 0: long prompts are read among the others.
        newcomers: rows that may get a slot in one tick.
        beside: what the run before made can be delivered while a run lasts.
    """

    max_rows: int
    max_batch: int
    steps: Sequence[int]
    full_steps: Sequence[int]
    max_scores: int
    readers: int
    newcomers: int
    beside: bool


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
