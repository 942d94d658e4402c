"""Counts of each model's calls, through whichever door they came: for clients that ask for them."""

import time
from dataclasses import dataclass, field

from grpc import StatusCode

from server.observe.call import Call, Observer
from server.observe.totals import Total

__all__ = ["CallCounts", "Statistics"]


@dataclass
class CallCounts:
    """The calls of one model that were begun.

    Attributes:
        success, fail: those that ended well, and others; from their beginning to their end.
        queue: the wait for a row, or a run, of those that came to one.
        compute: from there to the end.
        last: time.time() of the last end.
    """

    success: Total = field(default_factory=Total)
    fail: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    compute: Total = field(default_factory=Total)
    last: float = 0.0


class Statistics(Observer):
    """Counts by model. A call that is refused before its model is known counts for none."""

    def __init__(self) -> None:
        self._models: dict[str, CallCounts] = {}

    def get(self, model: str) -> CallCounts:
        """Return the counts of "NAME VERSION"."""
        return self._models.get(model) or CallCounts()

    def on_end(self, call: Call) -> None:
        if not call.model:
            return
        counts = self._models.setdefault(call.model, CallCounts())
        (counts.success if call.status is StatusCode.OK else counts.fail).add(call.seconds)
        if call.queue_seconds is not None:
            counts.queue.add(call.queue_seconds)
            counts.compute.add(call.seconds - call.queue_seconds)
        counts.last = time.time()
