"""Outputs on their way from the engine to the event loop."""

import time
from collections.abc import Callable
from enum import Enum
from typing import Generic

from server.engine.messages import Output
from server.engine.plan import R, RunSplit
from server.engine.state_store import RunOutput

__all__ = ["DeliveryBacklog", "Pace"]

# Share of the time between two posts that the event loop may need for one: the rest is for calls and other work.
LOOP_SHARE = 0.5


class Pace(Enum):
    """How the event loop keeps up with what is posted."""

    IN_TIME = "it handles a post long before the next one"
    BUSY = "it needs more than its share of the time between two posts"
    LATE = "it has not handled what was posted a run ago"


class DeliveryBacklog(Generic[R]):
    """Outputs that wait for the next run, that are ready to be posted, and that the event loop has not handled yet.

    Args:
        post: hands the outputs of a tick to the event loop; must not block.
        at_once: outputs are posted when a run is over, not when the next one begins: the last post is then just out
            when the pace is judged.

    Attributes:
        pace: as it was at the last `update_pace`.
        deferred: the last run's output and its split, whose `later` is not delivered yet.
    """

    def __init__(self, post: Callable[[list[Output]], None], *, at_once: bool = False) -> None:
        self.at_once = at_once
        self.pace = Pace.IN_TIME
        self.deferred: tuple[RunOutput, RunSplit[R]] | None = None
        self._post, self._ready = post, list[Output]()
        self._unhandled_ticks = 0
        self._is_busy = False
        self._posted = self._period = 0.0  # time.monotonic() of the last post, and seconds since the one before

    def add(self, output: Output | None) -> None:
        """Take an output, if there is one, for the next post."""
        if output:
            self._ready.append(output)

    def post(self) -> None:
        """Hand over what is ready; to be called when the next run is ready to begin.

        The event loop wakes up and takes the interpreter lock, which the engine's thread needs no more while the graph
        runs; a moment earlier it would stand in that thread's way.
        """
        if self._ready:
            self._post(self._ready)
            self._ready = []
            self._unhandled_ticks += 1
            now = time.monotonic()
            self._posted, self._period = now, now - self._posted

    def note_handled(self, ticks: int, seconds: float) -> None:
        """Take in that the event loop is through with `ticks` ticks, `seconds` after the first of them."""
        self._unhandled_ticks -= ticks
        self._is_busy = seconds > LOOP_SHARE * self._period

    def update_pace(self) -> Pace:
        """Judge and return the pace when a run is planned: by then what was posted a run ago should be handled."""
        self.pace = Pace.LATE if self._unhandled_ticks > self.at_once else Pace.BUSY if self._is_busy else Pace.IN_TIME
        return self.pace
