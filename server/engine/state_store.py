"""Where the states of running rows are kept: what a store of them does, what a run of it takes and what it gives.

A run reads the state before it and writes the one after it beside it: so the state before the last run is still there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bundle.philox import uniforms
from server.engine.messages import RowState
from server.engine.plan import Area, Runs

__all__ = ["LOGPROBS", "Inputs", "Limits", "Measure", "Outcomes", "States", "Store", "idle_inputs", "nothing"]

# Of the log-probabilities of one run, at most so many, or those of the smallest one.
LOGPROBS = 1 << 22

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# Is told the rows of a run, whether it was the full graph's, its steps, and the seconds that it took.
Measure = Callable[[int, bool, int, float], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Of W rows, for the full graph: bias [W, V], top_k, top_p and min_p [W]."""

    bias: Floats
    top_k: Ints
    top_p: Floats
    min_p: Floats


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run of K steps takes beside the states, for the B rows of the slots first, first + 1, ...

    Attributes:
        forced, uniform: [K, B]; see docs/design.md, section 4.
        temperature: [W]; W is `States.width(B)`.
        limits: of W rows.
    """

    first: int
    forced: Ints
    uniform: Floats
    temperature: Floats
    limits: Limits


class Outcomes:
    """What a run made.

    Attributes:
        tokens: int64 [K, B].
        seconds: that it took.
    """

    def __init__(self, tokens: Ints, fetch_logprobs: Callable[[], Floats], seconds: float) -> None:
        self.tokens, self._fetch_logprobs, self.seconds = tokens, fetch_logprobs, seconds

    @cached_property
    def logprobs(self) -> Floats:
        """float32 [K, B, V], of a run of the full graph; to be looked at before the next one."""
        return self._fetch_logprobs()


def nothing() -> None: ...


class States(Protocol):
    """The token and the state of the rows of one area. Of each slot's position it knows nothing."""

    def width(self, rows: int) -> int:
        """How many rows a run of so many really has."""

    def put(self, slot: int, row: RowState) -> None: ...

    def take(self, slot: int, position: int) -> RowState:
        """A copy of what is in the slot, which stands at that position."""

    def take_before(self, slot: int, position: int) -> RowState:
        """A copy of the slot's row before the last run, wherever it was then. To be asked before rows move after it."""

    def move(self, source: int, target: int) -> None:
        """What is in `source` is in `target` from now on."""

    def run(self, inputs: Inputs, *, full: bool, meanwhile: Callable[[], None] = nothing) -> Outcomes:
        """Raises CannotRun.

        Args:
            meanwhile: is called before the run ends, perhaps beside it in another thread. There, rows may move as if
                the run were over; nothing else is to be asked of the states.
        """

    def warm_up(self, measure: Measure) -> None:
        """Runs of every kind, while there are no rows. In the thread that will run. Raises CannotRun."""


class Store(Protocol):
    """All states of one model, and what runs of them there may be."""

    runs: Runs
    states: Mapping[Area, States]


def idle_inputs(rows: int, width: int, steps: int, vocab: int) -> Inputs:
    """Of sampled rows without limits."""
    limits = Limits(
        np.zeros((width, vocab), np.float32),
        np.full(width, vocab),
        np.ones(width, np.float32),
        np.zeros(width, np.float32),
    )
    forced = np.full((steps, rows), -1)
    return Inputs(0, forced, uniforms(np.arange(rows), 1, steps), np.ones(width, np.float32), limits)
