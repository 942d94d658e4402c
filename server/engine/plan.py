"""The scheduler's view of a text, the runs that are possible, and the run that is next."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, NamedTuple, TypeVar

__all__ = [
    "LONE_STEPS",
    "MAX_STEPS",
    "PREFILL_ROWS",
    "Area",
    "Chunking",
    "Move",
    "Plan",
    "Row",
    "RowSlice",
    "RunLimits",
    "RunSplit",
    "Status",
]

# Most steps of a run in the decode area, and of one that has a single row; most rows of the prefill area.
MAX_STEPS, LONE_STEPS, PREFILL_ROWS = 64, 128, 16


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a text is cut into messages.

    Attributes:
        max_delay: seconds that a generated character may wait for others.
        max_chars: characters of a message; None for no limit.
    """

    max_delay: float = 10.0
    max_chars: int | None = None


class Area(Enum):
    DECODE = "decode"
    PREFILL = "prefill"


class Status(Enum):
    WAITING = "waiting"
    PREFILL = "prefill"
    DECODE = "decode"
    PAUSED = "paused"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Row:
    """A text as the scheduler sees it: what it still has to do, and where it is.

    Attributes:
        stream: the number that names the text in commands and outputs.
        forced_left: characters that are given, by a prompt or a text received before, and have not run.
        silent_left: how many of them, from the first, do not go to the reader.
        chars_left: characters that may still be generated.
        credit: characters that may go to its reader before it has taken more; a run may exceed it.
        chunking: how its messages are cut, for which runs should fit.
        full: its sampling, or its scores, need the full graph.
        scored: forced characters are scored, so prefill needs the full graph too.
        fresh: nothing was generated yet.
        needs_states: it takes more from a run than tokens: the states around it, or log-probabilities.
        identity: who asked for it.
        arrival: its place in the order in which rows came.
        status: where it is: in the queue, in an area, paused, or ended.
        slot: its index in its area; -1 while it has none.
    """

    stream: int
    forced_left: int
    silent_left: int
    chars_left: int
    credit: int
    chunking: Chunking
    full: bool = False
    scored: bool = False
    fresh: bool = True
    needs_states: bool = False
    identity: str = ""
    arrival: int = 0
    status: Status = Status.WAITING
    slot: int = -1

    @property
    def area(self) -> Area:
        """The area of its slot, if it has one."""
        return Area.PREFILL if self.status is Status.PREFILL else Area.DECODE

    @property
    def is_done(self) -> bool:
        return not (self.chars_left or self.forced_left)

    @property
    def can_run(self) -> bool:
        return not self.is_done and (self.credit > 0 or self.silent_left > 0)

    def advance(self, steps: int) -> tuple[int, int, int]:
        """Advance by a run of `steps` steps.

        Returns:
            How many of its characters are silent, how many are forced, and how many belong to the row; in each case
            these are the first ones.
        """
        silent, forced = min(self.silent_left, steps), min(self.forced_left, steps)
        end = forced + min(steps - forced, self.chars_left)
        self.silent_left -= silent
        self.forced_left -= forced
        self.chars_left -= end - forced
        self.credit -= end - silent
        self.fresh &= end == forced
        return silent, forced, end


R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True)
class RunLimits:
    """The runs that a state store can do.

    Attributes:
        max_rows: rows that have a slot at a time.
        max_batch: rows of one run.
        steps, full_steps: allowed step counts of a run in the decode area, ascending; those of the full graph.
        max_scores: the most rows x steps of one run of the full graph.
        prefill_rows: rows of the prefill area; 0: long prompts run in the decode area.
        newcomers: rows that may get a slot in one tick.
        overlaps: outputs of a run are delivered while the next one runs.
    """

    max_rows: int
    max_batch: int
    steps: Sequence[int]
    full_steps: Sequence[int]
    max_scores: int
    prefill_rows: int
    newcomers: int
    overlaps: bool


@dataclass(frozen=True, slots=True)
class Plan(Generic[R]):
    """One run: the rows of the slots first, first + 1, ... of an area, and the steps of the run.

    Attributes:
        full: a row needs the full graph.
        postpone: a short run for newcomers: what others generate can wait for the next one.
    """

    area: Area
    first: int
    rows: Sequence[R]
    steps: int
    full: bool = False
    postpone: bool = False


class RowSlice(NamedTuple, Generic[R]):
    """One row's part of a run.

    Attributes:
        column: the row's column in the run.
        silent, forced, end: of the column's characters, how many are silent, are forced, and belong to the row.
        can_wait: whether its output may wait for the next run.
    """

    row: R
    column: int
    silent: int
    forced: int
    end: int
    can_wait: bool


@dataclass(slots=True)
class RunSplit(Generic[R]):
    """How a run is split between its rows: known before the run has ended.

    Attributes:
        postpone: what can wait for the next run, waits.
        at_once: slices to deliver before the next run.
        later: slices that can be delivered beside the next run.
        leaving: rows that are done, wait for their reader, or are through with prefill.
        generated, forced: numbers of characters.
    """

    postpone: bool
    at_once: list[RowSlice[R]] = field(default_factory=list)
    later: list[RowSlice[R]] = field(default_factory=list)
    leaving: list[R] = field(default_factory=list)
    generated: int = 0
    forced: int = 0

    def fill(self, plan: Plan[R], *, overlaps: bool) -> None:
        """Advance the plan's rows and divide the run between them. `overlaps`: as in `RunLimits`."""
        for column, row in enumerate(plan.rows):
            if row.status is Status.ENDED:
                # By a stop string that came to light when the run had begun.
                continue
            fresh = row.fresh
            silent, forced, end = row.advance(plan.steps)
            # A row that pauses waits for its reader, who must have something to read.
            part = RowSlice(row, column, silent, forced, end, not fresh and row.credit > 0)
            (self.later if overlaps and not row.needs_states else self.at_once).append(part)
            if not row.can_run or (plan.area is Area.PREFILL and not row.forced_left):
                self.leaving.append(row)
            self.forced += forced
            self.generated += end - forced


@dataclass(frozen=True, slots=True)
class Move:
    """The row that was in slot `source` of its area is now in slot `target`."""

    source: int
    target: int
