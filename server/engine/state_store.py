"""The interface of a state store, which keeps the hidden states of rows and runs the graph on them.

A run reads the state before it and writes the one after it beside it: so the state before the last run is still there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bundle.philox import uniforms
from bundle.vocabulary import Vocabulary
from server.engine.messages import RowState
from server.engine.plan import Area, RunLimits

__all__ = ["LOGPROBS", "Limits", "Measure", "RunInput", "RunOutput", "States", "Store", "do_nothing", "idle_input"]

# How many log-probabilities a run may have, unless the smallest run has more.
LOGPROBS = 1 << 22

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
# Takes the rows of a run, whether it was the full graph's, its steps, and the seconds that it took.
Measure = Callable[[int, bool, int, float], None]


@dataclass(frozen=True, slots=True)
class Limits:
    """Sampling limits of W rows, for the full graph: bias [W, V], top_k, top_p and min_p [W]."""

    bias: Floats
    top_k: Ints
    top_p: Floats
    min_p: Floats


@dataclass(frozen=True, slots=True)
class RunInput:
    """The input of a run of K steps, beside the states, for the B rows of the slots first, first + 1, ...

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


class RunOutput:
    """The outcomes of a run of K steps for B rows.

    Attributes:
        tokens: int64 [K, B].
        seconds: that the run took.
    """

    def __init__(
        self, tokens: Ints, fetch_logprobs: Callable[[], Floats], seconds: float, vocabulary: Vocabulary
    ) -> None:
        self.tokens, self.seconds = tokens, seconds
        self._fetch_logprobs, self._vocabulary = fetch_logprobs, vocabulary

    @cached_property
    def symbols(self) -> str:
        """The symbols of all tokens: K of row 0, K of row 1, ..."""
        return self._vocabulary.tokens_to_symbols(self.tokens.T)

    @cached_property
    def logprobs(self) -> Floats:
        """float32 [K, B, V], of a run of the full graph; to be looked at before the next one."""
        return self._fetch_logprobs()


def do_nothing() -> None: ...


class States(Protocol):
    """The tokens and hidden states of the rows of one area. Positions are kept elsewhere."""

    def width(self, rows: int) -> int:
        """Return how many rows a run really has that is asked for `rows` rows."""

    def put(self, slot: int, row: RowState) -> None: ...

    def take(self, slot: int, position: int) -> RowState:
        """Return a copy of the slot's row, which stands at that position."""

    def take_before(self, slot: int, position: int) -> RowState:
        """Return a copy of the slot's row as it was before the last run, wherever it was then.

        To be asked before rows move after that run.
        """

    def move(self, source: int, target: int) -> None:
        """Move the row in slot `source` to slot `target`."""

    def run(self, run_input: RunInput, *, full: bool, meanwhile: Callable[[], None] = do_nothing) -> RunOutput:
        """Run the graph on the states, which are K steps further then. Raises CannotRun.

        Args:
            meanwhile: is called before the run ends, perhaps beside it in another thread. There, rows may move as if
                the run were over; nothing else is to be asked of the states.
        """

    def warm_up(self, measure: Measure) -> None:
        """Do runs of every kind, while there are no rows, in the thread that will run. Raises CannotRun."""


class Store(Protocol):
    """All hidden states of one model, and the runs that are possible on them."""

    limits: RunLimits
    states: Mapping[Area, States]

    def close(self) -> None:
        """Free what a device holds, in the thread that ran it; nothing else may be asked of the store after it."""


def idle_input(rows: int, width: int, steps: int, vocab: int) -> RunInput:
    """Return the input of sampled rows without limits."""
    limits = Limits(
        np.zeros((width, vocab), np.float32),
        np.full(width, vocab),
        np.ones(width, np.float32),
        np.zeros(width, np.float32),
    )
    forced = np.full((steps, rows), -1)
    return RunInput(0, forced, uniforms(np.arange(rows), 1, steps), np.ones(width, np.float32), limits)
