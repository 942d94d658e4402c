"""What a run makes of the texts in it: how much is known when it begins, and what, when it has ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bundle.vocabulary import Vocabulary
from server.engine.messages import Delivery
from server.engine.plan import Area, Plan, Row, Status
from server.engine.sequence import Text, scores_of
from server.engine.state_store import Outcomes

__all__ = ["Made", "Part", "Shares"]


@dataclass(frozen=True, slots=True)
class Part:
    """What one text gets of a run.

    Attributes:
        column: of its row.
        silent, forced, end: of the row's characters in the run, the first so many are silent, given, and the text's.
        can_wait: for the next run, with what does not have to go out now.
    """

    text: Text
    column: int
    silent: int
    forced: int
    end: int
    can_wait: bool


@dataclass(slots=True)
class Shares:
    """How a run is shared out: known before it has ended.

    Attributes:
        at_once: parts to deliver before the next run.
        later: those that can be delivered beside it.
        leaving: rows that are done, wait for their reader, or have read.
        generated, forced: characters.
    """

    at_once: list[Part] = field(default_factory=list)
    later: list[Part] = field(default_factory=list)
    leaving: list[Row] = field(default_factory=list)
    generated: int = 0
    forced: int = 0

    def fill(self, plan: Plan, texts: Mapping[int, Text], *, beside: bool) -> None:
        """Counts the plan's run as run.

        Args:
            texts: by stream.
            beside: parts can be later.
        """
        for column, row in enumerate(plan.rows):
            if row.status is Status.ENDED:
                # By a stop string that came to light when the run had begun.
                continue
            text, fresh = texts[row.stream], row.fresh
            silent, forced, end = row.advance(plan.steps)
            # A row that pauses waits for its reader, who must have something to read.
            part = Part(text, column, silent, forced, end, not fresh and row.credit > 0)
            (self.later if beside and not text.needs_states else self.at_once).append(part)
            if not row.can_run or (plan.area is Area.READING and not row.forced_left):
                self.leaving.append(row)
            self.forced += forced
            self.generated += end - forced


class Made:
    """What came out of a run.

    Args:
        hold: what can wait for the next run, waits.
    """

    def __init__(self, outcomes: Outcomes, vocabulary: Vocabulary, *, hold: bool) -> None:
        self._hold = hold
        self._outcomes, self._steps, self._vocabulary = outcomes, len(outcomes.tokens), vocabulary

    @cached_property
    def _chars(self) -> str:
        """Row by row, K characters each."""
        return self._vocabulary.tokens_to_symbols(self._outcomes.tokens.T)

    def outcomes_of(self, part: Part) -> NDArray[np.int64]:
        """All of its row, [K]."""
        outcomes: NDArray[np.int64] = self._outcomes.tokens[:, part.column]
        return outcomes

    def delivery(self, part: Part, now: float, *, hold: bool) -> Delivery | None:
        """Has the text take its part in; returns what goes out. If `hold`, what can wait for the next run waits."""
        text, chars, begin = part.text, self._chars, part.column * self._steps
        if part.end == part.silent and not text.row.done:
            return None
        scores = None
        if text.wanted.alternatives is not None:
            place = slice(part.silent, part.end), part.column
            scores = scores_of(self._outcomes.logprobs[place], self._outcomes.tokens[place], text.wanted.alternatives)
        echo = chars[begin + part.silent : begin + part.forced]
        generated = chars[begin + part.forced : begin + part.end]
        return text.take(echo, generated, scores, hold=part.can_wait and (hold or self._hold), now=now)
